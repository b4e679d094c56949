#!/bin/sh
# Runs the driver matrix's report, the suite, the examples and the benchmarks on this machine's GPU and writes evidence/*.json.
# Made by `cargo xtask gpu-bundle`. Needs a GPU and its driver, and nothing else.
#
#   ./run.sh           everything but the last eleven of the next line
#   ./run.sh suite     the suite alone; likewise driver, quad, map, cudarc, examples, conformance, activate, alloc,
#                      rebalance, startup, under-load, isolation, peers_host and peers_memory, which need Python with
#                      cuda.core, CuPy or PyTorch, soak, which takes SOAK_SECONDS (240) on SOAK_THREADS (16), mps, which
#                      runs the suite and the program under an MPS daemon of its own, situations, which shows what the
#                      program says where users meet errors, embed, which takes the model's folder MODEL and the file
#                      TEXTS with a text a line, and measures sentence-transformers too where Python has it, service,
#                      which takes the same model and texts, and five minutes, server, which takes them too, queue,
#                      which takes up to five minutes, processes, which takes up to three and runs MPS daemons of its
#                      own, holders, which has two processes hold partitions under a daemon of its own, and ends one, and
#                      kills, which does so in ways that harm the other
set -u
cd "$(dirname "$0")"
CUDA_GREEN_COMMIT=$(cat COMMIT)
export CUDA_GREEN_COMMIT CUDA_GREEN_REQUIRE_GPU=1
unset CUDA_GREEN_DRIVER
mkdir -p evidence && touch evidence/.writable && rm evidence/.writable || exit 1
failed=0
wanted=" ${*:-driver quad map cudarc examples suite conformance activate alloc rebalance startup under-load isolation} "

step() { # name, command...
    name=$1
    shift
    case $wanted in *" $name "*) ;; *) return ;; esac
    echo "== $name"
    "$@" || { echo "== $name FAILED"; failed=1; }
}

quad() {
    ./quad_partition --driver system || return 1
    module=$(head -n 1 /proc/driver/nvidia/version 2>/dev/null)
    output=$(./quad_partition --driver system --json) || return 1
    {
        printf '{\n  "kernel_module": "%s",\n  "commit": "%s",\n' "$module" "$CUDA_GREEN_COMMIT"
        printf '  "command": "cargo run --release --example quad_partition -- --driver system --json",\n'
        printf '  "output": %s\n}\n' "$output"
    } >evidence/quad_partition.json
}

bench() { # evidence file, what to measure...
    file=evidence/$1.json
    shift
    ./cuda-green bench "$@" --json >"$file"
    code=$?
    [ -s "$file" ] || rm -f "$file"
    return $code
}

# Runs a command under an MPS daemon of its own.
under_mps() {
    mps_folder=$(mktemp -d) # plans of processes lie beside the pipes
    CUDA_MPS_PIPE_DIRECTORY=$mps_folder/pipes CUDA_MPS_LOG_DIRECTORY=$mps_folder/log
    export CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
    mkdir "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
    nvidia-cuda-mps-control -d || return 1
    "$@"
    code=$?
    echo quit | nvidia-cuda-mps-control
    rm -rf "$mps_folder"
    unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
    return $code
}

# The suite and the program under MPS, without a limit and with thread percentages.
suite_under_mps() {
    code=0
    CUDA_GREEN_SUITE_EVIDENCE=evidence/suite-mps.json ./suite --test-threads=1 system/ || code=1
    {
        for percent in 100 75 50 25; do
            for command in check map "plan 25% rest"; do
                echo "$ CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=$percent cuda-green $command"
                # shellcheck disable=SC2086 # the words of the command
                CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=$percent ./cuda-green $command 2>&1
                echo "[exit $?]"
            done
        done
    } | tee evidence/mps.txt
    return $code
}

# A request of one process beside a flood of another, and its picture; and whether the groups of
# two processes are apart here.
processes() {
    failed_checks=0
    timeout -k 15 160 ./cuda-green bench processes --json >evidence/processes.json || failed_checks=1
    if [ -s evidence/processes.json ]; then
        ./cuda-green bench processes --from evidence/processes.json --svg evidence/processes.svg || failed_checks=1
    else
        rm -f evidence/processes.json
    fi
    under_mps check_processes || failed_checks=1
    return $failed_checks
}

check_processes() {
    timeout -k 5 30 ./cuda-green check --processes --json >evidence/check-processes.json
    code=$?
    timeout -k 5 30 ./cuda-green check --processes >evidence/check-processes.txt 2>&1
    echo "[exit $?]" >>evidence/check-processes.txt
    cat evidence/check-processes.txt
    return $code
}

# Two processes hold the partitions of a plan under MPS; their shares change while both work; then one is ended, and the
# other must go on.
holders_under_mps() {
    failures=0
    {
        ./cuda-green info
        for run in 1 2 3 4; do
            echo "== run $run"
            ./shared_device serving 60 &
            ended=$!
            ./shared_device indexing 12 &
            neighbour=$!
            sleep 6
            ./cuda-green partitions
            for share in 50% 64 25%; do
                ./cuda-green partitions set serving=$share --json || failures=$((failures + 1))
            done
            ./cuda-green partitions end serving || failures=$((failures + 1))
            ./cuda-green partitions
            wait $ended
            echo "[serving: exit $?]"
            wait $neighbour
            code=$?
            echo "[indexing: exit $code]"
            [ $code = 0 ] || failures=$((failures + 1))
        done
        echo "$failures failures"
    } >evidence/holders.txt 2>&1
    cat evidence/holders.txt
    [ "$failures" = 0 ]
}

# What each way to kill a client of MPS does to its neighbour in another partition, eight times each.
kills_under_mps() {
    for way in "KILL 1" "KILL 64" "TERM 64" "STOP 64" "terminate_client 64"; do
        queued=${way#* } failed=0
        for _ in 1 2 3 4 5 6 7 8; do
            ./shared_device serving 60 "$queued" >/dev/null 2>&1 &
            killed=$!
            ./shared_device indexing 4 >/dev/null 2>&1 &
            neighbour=$!
            sleep 2.5
            signal=KILL
            case ${way% *} in
            TERM) signal=TERM ;;
            STOP) kill -STOP $killed && sleep 0.3 ;;
            terminate_client)
                server=$(echo get_server_list | nvidia-cuda-mps-control | head -n 1)
                echo "terminate_client $server $killed" | nvidia-cuda-mps-control >/dev/null
                ;;
            esac
            kill -$signal $killed
            wait $neighbour || failed=$((failed + 1))
            wait $killed 2>/dev/null
        done
        echo "${way% *}, $queued kernels launched at once: $failed of 8 neighbours failed"
    done | tee evidence/kills.txt
}

# The embeddings beside their peers in one run, and the vectors of one text by the program.
embed() {
    : "${MODEL:?names the folder of a model}" "${TEXTS:?names a file with a text a line}"
    peers=
    if python3 -c 'import sentence_transformers' 2>/dev/null; then
        python3 peers_embed.py "$MODEL" "$TEXTS" >evidence/peers_embed.json || return 1
        peers=evidence/peers_embed.json
    fi
    bench embed embed --model "$MODEL" --texts "$TEXTS" ${peers:+--peers "$peers"} || return 1
    ./cuda-green bench embed --from evidence/embed.json --svg evidence/embed.svg || return 1
    vectors=$(head -n 1000 "$TEXTS" | ./cuda-green-embed embed --model "$MODEL" | wc -l)
    [ "$vectors" -eq 1000 ] || { echo "1000 texts gave $vectors vectors"; return 1; }
}

# A query beside background work, and its picture.
service() {
    : "${MODEL:?names the folder of a model}" "${TEXTS:?names a file with a text a line}"
    bench service service --model "$MODEL" --texts "$TEXTS" || return 1
    ./cuda-green bench service --from evidence/service.json --svg evidence/service.svg
}

# Clients of the server over loopback, beside the same calls of the library.
server() {
    : "${MODEL:?names the folder of a model}" "${TEXTS:?names a file with a text a line}"
    log=$(mktemp)
    ./cuda-green-embed serve --model "$MODEL" --bind 127.0.0.1:0 2>"$log" &
    pid=$!
    for _ in $(seq 300); do
        grep -q '^serving ' "$log" && break
        sleep 0.1
    done
    cat "$log"
    address=$(sed -n 's,.*http://\([0-9.:]*\).*,\1,p' "$log" | head -n 1)
    rows=$(./server_load "$address" "$TEXTS" "$MODEL")
    code=$?
    kill -TERM $pid && wait $pid || code=1
    [ $code = 0 ] || return $code
    {
        printf '{\n  "commit": "%s",\n' "$CUDA_GREEN_COMMIT"
        printf '  "device": "%s",\n' "$(./cuda-green info --json | sed -n 's/^ *"device": "\(.*\)",*/\1/p' | head -n 1)"
        printf '  "kernel_module": "%s",\n' "$(head -n 1 /proc/driver/nvidia/version 2>/dev/null)"
        printf '  "command": "./run.sh server",\n'
        printf '  "rows": [\n%s\n  ]\n}\n' "$(echo "$rows" | sed 's/^/    /; $!s/$/,/')"
    } | tee evidence/server.json
}

# Runs a command for at most so many seconds, and not beyond the end of the step, and adds to the evidence what it was, how
# it ended and its last lines. An exit code of 77 is written as skipped.
checks=evidence/queue_checks.json
check() { # name, seconds, command...
    check=$1 limit=$2
    shift 2
    printf '%s' "-- $check: "
    left=$((ends - $(date +%s)))
    [ $left -lt "$limit" ] && limit=$left
    [ "$limit" -lt 1 ] && set -- sh -c 'echo no time is left; exit 124' && limit=1
    output=$(mktemp)
    begin=$(date +%s)
    timeout -k 5 "$limit" "$@" >"$output" 2>&1
    code=$?
    end=$(date +%s)
    result=ok
    [ $code = 77 ] && result=skipped
    [ $code = 0 ] || [ $code = 77 ] || { result=failed; failed_checks=1; }
    echo "$result (exit $code, $((end - begin)) s)"
    [ $result = failed ] && cat "$output"
    {
        [ -s "$checks.part" ] && echo ','
        printf '    {"name": "%s", "result": "%s", "exit": %s, "seconds": %s, "command": "%s",\n     "output": [' \
            "$check" "$result" "$code" "$((end - begin))" "$(printf '%s' "$*" | tr -s '\n\t ' ' ' | sed 's/\\/\\\\/g; s/"/\\"/g')"
        tail -n 12 "$output" | tr -d '\000-\010\013-\037' | cut -c 1-400 |
            sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/ /g; s/^/"/; s/$/"/; $!s/$/,/' | tr '\n' ' '
        printf ']}'
    } >>"$checks.part"
    rm -f "$output"
}

# The queue beside hand-written loops, with its picture; then what must hold, each bounded: the suite's cases, runs with
# launches that block and with one connection, no GPU, a long run whose sums match, the sanitizer's tools, and a second GPU.
# All of it ends within five minutes.
queue() {
    failed_checks=0
    ends=$(($(date +%s) + 285))
    timeout -k 5 150 ./cuda-green bench queue --json >evidence/queue.json
    code=$?
    [ -s evidence/queue.json ] || rm -f evidence/queue.json
    [ $code = 0 ] || { echo "bench queue: exit $code"; failed_checks=1; }
    [ -s evidence/queue.json ] && ./cuda-green bench queue --from evidence/queue.json --svg evidence/queue.svg
    rm -f "$checks.part"
    quick="./cuda-green bench queue --quick"
    # shellcheck disable=SC2086 # the words of the command
    {
        check "the suite's cases" 90 sh -c './suite --test-threads=1 system/queue | tee /dev/stderr | grep -q "[1-9][0-9]* passed; 0 failed"'
        check "the first program" 30 ./first_task
        check "the example" 30 ./pages
        check "no GPU" 10 env CUDA_VISIBLE_DEVICES= ./pages
        check "launches that block" 30 env CUDA_LAUNCH_BLOCKING=1 $quick
        check "one connection" 30 env CUDA_DEVICE_MAX_CONNECTIONS=1 $quick
        check "functions loaded at once" 30 env CUDA_MODULE_LOADING=EAGER $quick
        check "a long run" 60 ./cuda-green bench queue --tasks "${QUEUE_TASKS:-1000000000}"
        for tool in memcheck racecheck synccheck; do
            check "compute-sanitizer $tool" 40 sh -c "command -v compute-sanitizer >/dev/null || exit 77
                exec compute-sanitizer --tool $tool --error-exitcode 9 ./cuda-green bench queue --tasks 100000"
        done
        check "the second GPU" 30 sh -c "./cuda-green --device 1 info >/dev/null 2>&1 || exit 77
            exec ./cuda-green --device 1 bench queue --tasks 10000000"
    }
    {
        printf '{\n  "commit": "%s",\n' "$CUDA_GREEN_COMMIT"
        printf '  "device": "%s",\n' "$(./cuda-green info --json | sed -n 's/^ *"device": "\(.*\)",*/\1/p' | head -n 1)"
        printf '  "kernel_module": "%s",\n' "$(head -n 1 /proc/driver/nvidia/version 2>/dev/null)"
        printf '  "command": "./run.sh queue",\n  "checks": [\n'
        cat "$checks.part"
        printf '\n  ]\n}\n'
    } >"$checks"
    rm -f "$checks.part"
    return $failed_checks
}

step driver ./driver-matrix report system --out evidence/driver.json
step quad quad
step map sh -c './cuda-green map --json >evidence/map.json && ./cuda-green map --svg evidence/map.svg'
step cudarc ./cudarc_partition --out evidence/cudarc_partition.json
# What the other examples print is for people, and no evidence.
step examples sh -c './first_program && ./protected_latency && ./rebalance_under_load && ./models_in_a_budget'
# One case at a time: several look at what the whole device does.
step suite env CUDA_GREEN_SUITE_EVIDENCE=evidence/suite.json ./suite --test-threads=1 system/
step conformance env CUDA_GREEN_CONFORMANCE_EVIDENCE=evidence/conformance-h200.json \
    ./conformance --test-threads=1 system/
for what in activate alloc rebalance startup under-load isolation; do
    step "$what" bench "$what" "$what"
done
step soak bench soak alloc --soak "${SOAK_SECONDS:-240}" --threads "${SOAK_THREADS:-16}"
step peers_host sh -c 'python3 peers_host.py >evidence/peers_host.json && cat evidence/peers_host.json'
step peers_memory sh -c 'python3 peers_memory.py >evidence/peers_memory.json && cat evidence/peers_memory.json'
step embed embed
step service service
step server server
step queue queue
step processes processes
step mps under_mps suite_under_mps
step holders under_mps holders_under_mps
step kills under_mps kills_under_mps
step situations sh -c 'sh situations.sh ./cuda-green | tee evidence/situations.txt'
exit $failed
