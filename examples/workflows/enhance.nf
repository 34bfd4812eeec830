// nextflow run enhance.nf --raw '/data/raw/*.zarr' --enhanced /data/enhanced
// Exit code 75 asks for another start. The volume stands outside of the work folder, so that the next start goes on with it.
process ENHANCE {
    cpus 8; memory 64.GB; time 8.h; clusterOptions '--signal=B:USR1@120'
    errorStrategy { task.exitStatus == 75 ? 'retry' : 'finish' }
    maxRetries 20
    input: val raw
    script: "exec volumetool enhance '${raw}' '${params.enhanced}/${raw.name}' --model em-x4"
}
workflow { ENHANCE(channel.fromPath(params.raw, type: 'dir')) }
