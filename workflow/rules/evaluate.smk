rule evaluate:
    """Measures trained networks: metrics a seed, learning curves, what the figures need."""
    input:
        ancient(WORK.inputs),
    output:
        WORK.manifest("evaluate"),
    log:
        WORK.log("evaluate"),
    benchmark:
        WORK.benchmark("evaluate")
    threads: WORK.cores
    resources:
        mem_mb=WORK.resource("mem_mb"),
        runtime=WORK.resource("runtime"),
        gpu=WORK.resource("gpu"),
        gpu_model=WORK.gpu_model,
    params:
        where=WORK.where,
        device=WORK.device,
    shell:
        "dlpipe evaluate {wildcards.stage} {params.where:q} {params.device:q} > {log} 2>&1 || (tail -n 25 {log} >&2; exit 1)"
