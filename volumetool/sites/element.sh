part=${SLURM_ARRAY_TASK_ID:-${VOLUMETOOL_PART:-0}}
attempt=$((${SLURM_RESTART_COUNT:-0} + ${VOLUMETOOL_ATTEMPTS:-0} + 1))
told=
child=

say() {
    printf '%s part %s/%s, attempt %s on %s: %s\n' "$(date +%FT%T)" "$part" "$parts" "$attempt" "$(hostname)" "$*"
}

# One more element waits until all of them have ended: it takes what those left that were killed, and finishes the volume.
if [ "$part" -eq 0 ] && [ "$attempt" -eq 1 ] && [ -z "$VOLUMETOOL_LAST" ]; then
    # The variables are named: some sites hand no environment on.
    sbatch --export=ALL,VOLUMETOOL_LAST=yes,VOLUMETOOL_PART=0 --dependency=singleton ${SLURM_ARRAY_JOB_ID:+--array=0} "$0" ||
        say "this site starts no job from within a job: when all have ended, look at volumetool status"
fi

# A warning of the site is handed on. volumetool keeps what is finished, and ends within seconds with exit code 75.
# shellcheck disable=SC2317  # the traps call it
stop() {
    told=$1
    [ -z "$child" ] || kill -s USR1 "$child" 2>/dev/null
}
trap 'stop warned' USR1 USR2 HUP
trap 'stop ended' TERM

# Run a part of the job; a signal ends `wait` early, so it is asked again for as long as the program lives.
run() {
    [ -z "$told" ] || return 75
    "${job[@]}" --part="$1" &
    child=$!
    while :; do
        wait "$child"
        code=$?
        kill -0 "$child" 2>/dev/null || break
    done
    child=
    return "$code"
}

# Told to stop, or killed: by another's memory, by a driver that hangs.
unfinished() {
    [ "$1" -eq 75 ] || [ "$1" -gt 128 ]
}

code=0
if [ -z "$VOLUMETOOL_LAST" ]; then
    run "$part/$parts"
    code=$?
fi
if ! unfinished "$code"; then
    run any # what elements left that have ended; it also says whether all is done, where another one took this part
    code=$?
fi
if ! unfinished "$code"; then
    say "ends with code $code"
    exit "$code"
fi
if [ "$told" = ended ]; then
    say "was cancelled or preempted; the site starts it again, or you do"
    exit 75
fi
if [ "$attempt" -ge "$attempts" ]; then
    say "was started $attempts times, and is not done; submit this script again to go on"
    exit 75
fi
say "goes on with another attempt (code $code)"
own=$SLURM_JOB_ID
chained=(--dependency="afterany:$SLURM_JOB_ID")
if [ -n "$SLURM_ARRAY_JOB_ID" ]; then
    own=${SLURM_ARRAY_JOB_ID}_$part
    chained+=(--array="$part")
fi
if ! scontrol requeue "$own"; then # some sites forbid it
    unset SLURM_RESTART_COUNT
    chained+=(--export="ALL,VOLUMETOOL_PART=$part,VOLUMETOOL_ATTEMPTS=$attempt,VOLUMETOOL_LAST=$VOLUMETOOL_LAST")
    sbatch "${chained[@]}" "$0" || exit 1
fi
exit 75
