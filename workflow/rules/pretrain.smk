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
    threads: 1
    resources:
        mem_mb=WORK.resource("pretrain", "mem_mb"),
        runtime=WORK.resource("pretrain", "runtime"),
        gpu=WORK.resource("pretrain", "gpu"),
    params:
        where=WORK.where,
        device=WORK.device,
    shell:
        "dlpipe pretrain {wildcards.stage} {params.where:q} {params.device:q} --threads {threads} > {log} 2>&1 || (tail -n 25 {log} >&2; exit 1)"
