rule pretrain:
    """Trains one layer, without labels, on what the layers below make of the data."""
    input:
        ancient(WORK.inputs),
    output:
        WORK.manifest("pretrain"),
    log:
        WORK.log("pretrain"),
    benchmark:
        WORK.benchmark("pretrain")
    priority: 2  # what most waits for: layers, and what is trained from them
    threads: WORK.cores
    resources:
        mem_mb=WORK.resource("mem_mb"),
        runtime=WORK.resource("runtime"),
        gpu=WORK.resource("gpu"),
        gpu_model=WORK.gpu_model,
    params:
        where=WORK.where,
        device=WORK.device,
        ranks=WORK.ranks,
        deadline=WORK.deadline,
    shell:
        "dlpipe pretrain {wildcards.stage} {params.where:q} {params.device:q} {params.ranks:q} {params.deadline:q} > {log} 2>&1 || (tail -n 25 {log} >&2; exit 1)"
