rule plot:
    """Draws an experiment's figures from its metrics."""
    input:
        ancient(WORK.inputs),
    output:
        report(
            directory(WORK.folder("plot")),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures",
            labels=lambda wildcards: {"figures": wildcards.stage},
        ),
    log:
        WORK.log("plot"),
    benchmark:
        WORK.benchmark("plot")
    threads: 1
    resources:
        mem_mb=WORK.resource("mem_mb"),
        runtime=WORK.resource("runtime"),
    params:
        where=WORK.where,
    shell:
        "dlpipe plot {wildcards.stage} {params.where:q} > {log} 2>&1 || (tail -n 25 {log} >&2; exit 1)"
