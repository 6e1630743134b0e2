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
    priority: 1  # before any evaluation, for which nothing waits but the report
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
        "dlpipe finetune {wildcards.stage} {params.where:q} {params.device:q} {params.ranks:q} {params.deadline:q} > {log} 2>&1 || (tail -n 25 {log} >&2; exit 1)"
