rule finetune:
    """Trains a whole network on its task, from pretrained layers or from random initialisation."""
    input:
        ancient(WORK.inputs),
    output:
        WORK.manifest("finetune"),
    log:
        WORK.log("finetune"),
    benchmark:
        WORK.benchmark("finetune")
    threads: 1
    resources:
        mem_mb=WORK.resource("finetune", "mem_mb"),
        runtime=WORK.resource("finetune", "runtime"),
        gpu=WORK.resource("finetune", "gpu"),
    params:
        where=WORK.where,
        device=WORK.device,
    shell:
        "dlpipe finetune {wildcards.stage} {params.where:q} {params.device:q} --threads {threads} > {log} 2>&1 || (tail -n 25 {log} >&2; exit 1)"
