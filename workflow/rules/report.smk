rule report:
    """Writes the report of all configured experiments, from metrics and figures alone."""
    input:
        ancient(WORK.report_inputs),
        WORK.report_request,
    output:
        html=report(
            WORK.report,
            caption="../report/report.rst",
            category="Report",
            labels={"report": WORK.scale},
        ),
        verdicts=WORK.verdicts,
    log:
        f"{WORK.store.results}/logs/report/{WORK.scale}.log",
    benchmark:
        f"{WORK.store.results}/benchmarks/report/{WORK.scale}.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        arguments=WORK.report_arguments,
    shell:
        "dlpipe report {params.arguments:q} > {log} 2>&1 || (tail -n 25 {log} >&2; exit 1)"
