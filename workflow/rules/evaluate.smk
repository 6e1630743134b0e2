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
    threads: 1
    resources:
        mem_mb=WORK.resource("evaluate", "mem_mb"),
        runtime=WORK.resource("evaluate", "runtime"),
        gpu=WORK.resource("evaluate", "gpu"),
    params:
        where=WORK.where,
        device=WORK.device,
    shell:
        "dlpipe evaluate {wildcards.stage} {params.where:q} {params.device:q} --threads {threads} > {log} 2>&1 || (tail -n 25 {log} >&2; exit 1)"
