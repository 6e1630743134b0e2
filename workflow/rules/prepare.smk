rule prepare:
    """Splits a data set, scales it and stores it as tensors."""
    input:
        ancient(WORK.inputs),
    output:
        WORK.manifest("prepare"),
    log:
        WORK.log("prepare"),
    benchmark:
        WORK.benchmark("prepare")
    threads: 1
    resources:
        mem_mb=WORK.resource("mem_mb"),
        runtime=WORK.resource("runtime"),
    params:
        where=WORK.where,
    shell:
        "dlpipe prepare {wildcards.stage} {params.where:q} > {log} 2>&1 || (tail -n 25 {log} >&2; exit 1)"
