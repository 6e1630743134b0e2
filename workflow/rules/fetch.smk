rule fetch:
    """Downloads a data set's files and verifies them. Needs the network, unless config says mirrors or the data ships with a package."""
    output:
        WORK.manifest("fetch"),
    log:
        WORK.log("fetch"),
    benchmark:
        WORK.benchmark("fetch")
    threads: 1
    resources:
        mem_mb=WORK.resource("mem_mb"),
        runtime=WORK.resource("runtime"),
    params:
        where=WORK.where,
        sources=WORK.sources,
    shell:
        "dlpipe fetch {wildcards.stage} {params.where:q} {params.sources:q} > {log} 2>&1 || (tail -n 25 {log} >&2; exit 1)"
