//! The tables of README.md, COSTS.md and the documentation, which are those of the evidence. `BLESS=1` writes them.

#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests

use std::fs;

use driver_matrix::skip;
use serde_json::Value;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const COSTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/COSTS.md");
const EMBED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda-green-embed/README.md");
const QUEUE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda-green-queue/README.md");
const PRIORITIES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/cuda-green/src/device/priority.rs"
);

fn figures(name: &str) -> Value {
    let path = format!("{}/evidence/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let evidence: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(evidence["simulated"], false, "{name} is no evidence");
    assert!(
        evidence["command"]
            .as_str()
            .is_some_and(|command| !command.contains("--quick"))
    );
    evidence["figures"].clone()
}

fn isolation() -> String {
    let figures = figures("isolation");
    let rows = figures.as_array().unwrap();
    let number = |row: &Value, field: &str| thousands(row[field].as_f64().unwrap().round() as u64);
    let sized = |row: &&Value| row["set_up"].as_str().unwrap().ends_with(" SMs");
    let small = |row: &&Value| row["set_up"].as_str().unwrap().starts_with("12 small");
    let mut table = "| set-up | p50 | p99 |\n|---|---|---|\n".to_owned();
    for row in rows.iter().filter(|row| !sized(row) && !small(row)) {
        let flood = row["flood"].as_str().map(|flood| format!(", {flood}"));
        table += &format!(
            "| {}{} | {} | {} |\n",
            row["set_up"].as_str().unwrap(),
            flood.unwrap_or_default(),
            number(row, "p50_us"),
            number(row, "p99_us")
        );
    }
    let share = rows
        .iter()
        .find_map(|row| row["partition_sms"].as_u64())
        .unwrap();
    table += &format!(
        "\nThe partition has {share} SMs. The same request in partitions of other sizes, and a request of 12 small kernels beside a thread that launches tiny ones all the time:\n\n| set-up | p50 | p99 | p99 / alone |\n|---|---|---|---|\n"
    );
    for row in rows.iter().filter(|row| sized(row) || small(row)) {
        let alone = rows
            .iter()
            .find(|other| other["set_up"] == row["set_up"])
            .unwrap();
        assert!(alone["flood"].is_null());
        table += &format!(
            "| {}, {} | {} | {} | {:.2} |\n",
            row["set_up"].as_str().unwrap(),
            row["flood"].as_str().unwrap_or("alone"),
            number(row, "p50_us"),
            number(row, "p99_us"),
            row["p99_us"].as_f64().unwrap() / alone["p99_us"].as_f64().unwrap(),
        );
    }
    table
}

/// What a priority does and what a partition does, as `ContextPriority` has it.
fn priorities() -> String {
    let figures = figures("isolation");
    let p99 = |set_up: &str, flood: Option<&str>| {
        let mut rows = figures.as_array().unwrap().iter();
        let row = rows.find(|row| row["set_up"] == set_up && row["flood"].as_str() == flood);
        thousands(row.unwrap()["p99_us"].as_f64().unwrap().round() as u64)
    };
    let mut table = "/// | p99 of the request, in µs | flood of long blocks | flood of short blocks |\n/// |---|---|---|\n".to_owned();
    for (name, set_up) in [
        ("two plain streams", "two plain streams"),
        (
            "high- and low-priority streams",
            "high- and low-priority streams",
        ),
        ("two partitions", "flood in another partition"),
    ] {
        let [long, short] = ["long blocks", "short blocks"].map(|flood| p99(set_up, Some(flood)));
        table += &format!("/// | {name} | {long} | {short} |\n");
    }
    let alone = p99("alone, in a partition", None);
    table + &format!("/// | the partition alone | {alone} | {alone} |\n/// ")
}

/// The row of a list in which a field has this value.
fn row<'a>(rows: &'a Value, field: &str, value: impl Into<Value>) -> &'a Value {
    let value = value.into();
    let mut rows = rows.as_array().unwrap().iter();
    rows.find(|row| row[field] == value).unwrap()
}

fn host_cost() -> String {
    let calls = &figures("activate")["calls"];
    let path = format!("{}/evidence/peers_host.json", env!("CARGO_MANIFEST_DIR"));
    let peers: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert!(!peers["command"].as_str().unwrap().contains("--quick"));
    let time = |nanoseconds: &Value| match nanoseconds.as_f64() {
        None => "–".to_owned(),
        Some(nanoseconds @ ..1e3) => format!("{nanoseconds:.0} ns"),
        Some(nanoseconds) => format!("{:.1} µs", nanoseconds / 1e3),
    };
    let mut table =
        "| | ours | raw | ratio | cuda.core | PyTorch |\n|---|---|---|---|---|---|\n".to_owned();
    for (name, of_core, of_torch) in [
        (
            "activate + drop",
            "set_current there and back",
            "set_context + pop_context",
        ),
        ("activate + drop beside its three calls", "", ""),
        ("activate + drop through the manager", "", ""),
        ("launch", "", ""),
        ("record + wait", "", ""),
        ("create", "create", "create"),
        ("destroy", "close", "close"),
        ("create + destroy", "", ""),
    ] {
        let figure = row(calls, "call", name);
        let peer = |peer: &str, row: &str| time(&peers[peer]["figures"][row]["ns"]);
        table += &format!(
            "| {name} | {} | {} | {:.2} | {} | {} |\n",
            time(&figure["ours_ns"]),
            time(&figure["raw_ns"]),
            figure["ratio"].as_f64().unwrap(),
            peer("cuda.core", of_core),
            peer("torch", of_torch),
        );
    }
    let quad = &peers["cuda.core"]["figures"]["quad"];
    let groups: u64 = quad["groups"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_u64)
        .sum();
    let refused = peers["cuda.core"]["figures"]["64/32/24/12"]["refused"]
        .as_str()
        .unwrap();
    table += &format!(
        "\ncuda.core {} and PyTorch {} are called from Python, whose cost is in their times; a loop that does nothing takes {:.0} ns a round. A quad has all SMs here and {groups} with cuda.core; 64/32/24/12 SMs work here, and cuda.core refuses them (\"{refused}\").\n",
        peers["cuda.core"]["version"].as_str().unwrap(),
        peers["torch"]["version"].as_str().unwrap(),
        peers["python_loop_ns"].as_f64().unwrap(),
    );
    let load = figures("startup")["load"]["beyond_dlopen_ns"].as_f64();
    table += &format!(
        "\nLoading the driver and resolving every entry point takes {:.2} ms beyond `dlopen`.\n",
        load.unwrap() / 1e6
    );
    table += &availability(&figures("startup")["check_availability"]);
    let hand_offs = &figures("rebalance")["hand_offs"];
    let strict = row(hand_offs, "hand_off", "strict");
    let micro = |what: &str, field: &str| strict[what][field].as_f64().unwrap() / 1e3;
    table += &format!(
        "A provisioned rebalance returns after {:.1} µs (p99 {:.1} µs); a launch and its end take {:.1} µs right after it, {:.1} µs otherwise.\n",
        micro("rebalance", "p50_ns"),
        micro("rebalance", "p99_ns"),
        micro("launch_and_sync_after", "p50_ns"),
        micro("launch_and_sync", "p50_ns"),
    );
    table
}

/// What the start-up check costs, measured in processes of its own.
fn availability(figures: &Value) -> String {
    let fields = ["beyond_cu_init_ns", "no_gpu_visible_ns", "no_driver_ns"];
    let [beyond, hidden, no_driver] = fields.map(|field| figures[field].as_f64().unwrap() / 1e6);
    format!(
        "`check_availability` adds {beyond:.2} ms to `cuInit`, and takes {hidden:.1} ms where no GPU is visible and {no_driver:.2} ms where there is no driver.\n"
    )
}

/// What calls cost beside a flood, the slowest first.
fn under_load() -> String {
    let figures = figures("under-load");
    let time = |times: &Value, field: &str| {
        let us = times[field].as_f64().unwrap() / 1e3;
        if us < 99.5 {
            format!("{us:.1} µs")
        } else if us < 9950.0 {
            format!("{:.2} ms", us / 1e3)
        } else {
            format!("{:.0} ms", us / 1e3)
        }
    };
    let mut calls = figures["calls"].as_array().unwrap().clone();
    let p50 = |call: &Value| call["beside_a_flood"]["p50_ns"].as_f64().unwrap();
    calls.sort_by(|one, other| p50(other).total_cmp(&p50(one)));
    let mut table = "| | alone | beside a flood | at most |\n|---|---|---|---|\n".to_owned();
    for call in &calls {
        table += &format!(
            "| {} | {} | {} | {} |\n",
            call["call"].as_str().unwrap(),
            time(&call["alone"], "p50_ns"),
            time(&call["beside_a_flood"], "p50_ns"),
            time(&call["beside_a_flood"], "max_ns")
        );
    }
    table
}

/// Allocators side by side: what a pair costs on one thread and on several, and what is left in pieces.
fn memory() -> String {
    let figures = figures("alloc");
    let path = format!("{}/evidence/peers_memory.json", env!("CARGO_MANIFEST_DIR"));
    let peers: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert!(!peers["command"].as_str().unwrap().contains("--quick"));
    // What a peer did not measure, or could not, is a dash.
    let peer = |name: &str, row: &str, field: &str| peers[name]["figures"][row][field].as_f64();
    let time = |nanoseconds: Option<f64>| match nanoseconds {
        None => "–".to_owned(),
        Some(nanoseconds @ ..1e4) => format!("{} ns", thousands(nanoseconds.round() as u64)),
        Some(nanoseconds @ ..1e6) => format!("{:.0} µs", nanoseconds / 1e3),
        Some(nanoseconds) => format!("{:.1} ms", nanoseconds / 1e6),
    };
    let share = |share: Option<f64>| {
        share.map_or("–".to_owned(), |share| format!("{:.0} %", share * 100.0))
    };
    let mut table = "| allocate + free | ours | driver's pool | `cuMemAlloc` | CuPy | PyTorch |\n|---|---|---|---|---|---|\n".to_owned();
    for size in [
        "256 B", "4 KiB", "64 KiB", "1 MiB", "8 MiB", "64 MiB", "1 GiB",
    ] {
        let own = row(&figures["pairs"], "size", size);
        let own = |field: &str| time(own[field].as_f64());
        let row = format!("pair {size}");
        table += &format!(
            "| {size} | {} | {} | {} | {} | {} |\n",
            own("ours_ns"),
            own("raw_pool_ns"),
            own("cu_mem_alloc_ns"),
            time(peer("cupy", &row, "ns")),
            time(peer("torch", &row, "ns")),
        );
    }
    for threads in [2, 4, 8, 16] {
        let figure = row(&figures["threads"], "threads", threads);
        table += &format!(
            "| 4 KiB, {threads} threads at once | {} | {} | | | |\n",
            time(figure["ours_ns"].as_f64()),
            time(figure["raw_pool_ns"].as_f64()),
        );
    }
    table += "\n| taken from the device beyond what was in use, at most | ours | driver's pool | CuPy | PyTorch |\n|---|---|---|---|---|\n";
    for most in [4, 64] {
        for count in [1_000, 10_000, 100_000] {
            let mut own = figures["random"].as_array().unwrap().iter();
            let own = own.find(|row| row["allocations"] == count && row["up_to_mib"] == most);
            let own = own.unwrap();
            let row = format!("random {count} up to {most} MiB");
            table += &format!(
                "| {} allocations up to {most} MiB | {} | {} | {} | {} |\n",
                thousands(count),
                share(own["ours_overhead"].as_f64()),
                share(own["raw_pool_overhead"].as_f64()),
                share(peer("cupy", &row, "overhead")),
                share(peer("torch", &row, "overhead")),
            );
        }
    }
    table += &format!(
        "\nCuPy {} ({}) and PyTorch {} ({}) are called from Python, whose cost is in their times; a loop that allocates nothing takes {:.0} ns a round.\n",
        peers["cupy"]["version"].as_str().unwrap_or("–"),
        peers["cupy"]["what"].as_str().unwrap_or("–"),
        peers["torch"]["version"].as_str().unwrap_or("–"),
        peers["torch"]["what"].as_str().unwrap_or("–"),
        peers["python_loop_ns"].as_f64().unwrap(),
    );
    table + &soak()
}

/// The soak, once there is evidence of one.
fn soak() -> String {
    if !fs::exists(format!("{}/evidence/soak.json", env!("CARGO_MANIFEST_DIR"))).unwrap() {
        return String::new();
    }
    let figures = figures("soak");
    assert_eq!(figures["driver_before"], figures["driver_after"]);
    format!(
        "After {:.1} billion operations on {} threads, what one thread does in {:.1} hours, the driver's own counters were where they had been.\n",
        figures["operations"].as_f64().unwrap() / 1e9,
        figures["threads"],
        figures["hours_of_one_thread"].as_f64().unwrap(),
    )
}

/// Embeddings beside their peers and their goals, once there is evidence of them.
fn embed() -> String {
    if !fs::exists(format!(
        "{}/evidence/embed.json",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
    {
        return "Not measured yet.\n".to_owned();
    }
    let figures = figures("embed");
    let number = |value: &Value| value.as_f64().unwrap();
    let whole = |value: f64| thousands(value.round() as u64);
    let most = |rows: &Value, field: &str| {
        let values = rows
            .as_array()
            .unwrap()
            .iter()
            .map(|row| number(&row[field]));
        values.reduce(f64::max).unwrap()
    };
    let mut table = format!(
        "{} with {} texts, in {}, on {} cores.\n\n| | |\n|---|---|\n",
        figures["model"]["name"].as_str().unwrap(),
        thousands(figures["model"]["texts"].as_u64().unwrap()),
        figures["model"]["precision"].as_str().unwrap(),
        figures["model"]["cores"],
    );
    let mut line = |name: &str, value: String| table += &format!("| {name} | {value} |\n");
    let end_to_end = most(&figures["bulk"], "texts_per_s");
    line("end to end, texts/s", whole(end_to_end));
    let best = figures["bulk"].as_array().unwrap().iter();
    let best = best
        .max_by(|one, other| number(&one["texts_per_s"]).total_cmp(&number(&other["texts_per_s"])));
    let busy = number(&best.unwrap()["gpu_busy"]) * 100.0;
    line("of that time, the GPU is busy", format!("{busy:.0} %"));
    let sorted = most(&figures["sorted"], "tokens_per_s");
    line("pre-tokenised, tokens/s", whole(sorted));
    let share = most(&figures["sorted"], "of_790_tflops") * 100.0;
    line("of 790 TFLOP/s", format!("{share:.0} %"));
    for row in figures["shapes"].as_array().unwrap() {
        let name = format!(
            "{} shape, {} tokens a text, tokens/s",
            row["name"].as_str().unwrap(),
            row["tokens_of_text"]
        );
        line(&name, whole(number(&row["tokens_per_s"])));
    }
    for row in figures["by_sms"].as_array().unwrap() {
        let name = format!("pre-tokenised on {} SMs, texts/s", row["sms"]);
        line(&name, whole(number(&row["texts_per_s"])));
    }
    for row in figures["several_gpus"].as_array().unwrap() {
        let name = format!(
            "pre-tokenised on {} GPUs, tokens/s (÷ one GPU's)",
            row["gpus"]
        );
        let (speed, ratio) = (number(&row["tokens_per_s"]), number(&row["to_one"]));
        line(&name, format!("{} ({ratio:.2})", whole(speed)));
    }
    for row in figures["one_text"].as_array().unwrap() {
        let flood = row["flood"]
            .as_str()
            .map(|flood| format!(", beside {flood}"));
        let name = format!(
            "one text of {} tokens on {} SMs{}, p50 / p99 in µs",
            row["tokens"],
            row["sms"],
            flood.unwrap_or_default()
        );
        let [p50, p99] = ["p50_us", "p99_us"].map(|field| whole(number(&row[field])));
        line(&name, format!("{p50} / {p99}"));
    }
    let tokeniser = &figures["tokeniser"];
    line(
        "tokeniser on one core, texts/s",
        whole(number(&tokeniser["one_core_texts_per_s"])),
    );
    line(
        "tokeniser on all cores, texts/s",
        whole(number(&tokeniser["all_cores_texts_per_s"])),
    );
    let first = number(&figures["first_vector_s"]);
    line(
        "a process from its start to its end after one vector",
        format!("{first:.2} s"),
    );
    let memory = &figures["memory"];
    for (name, field) in [
        ("weights", "weight_bytes"),
        ("activations", "activation_bytes"),
        ("taken from the device, with code", "device_bytes"),
        ("the same after all texts", "device_after_all_texts_bytes"),
    ] {
        let mib = number(&memory[field]) / f64::from(1 << 20);
        line(name, format!("{mib:.0} MiB"));
    }
    for row in figures["accuracy"].as_array().unwrap() {
        let precision = row["precision"].as_str().unwrap();
        let least = number(&row["least_cosine"]);
        line(
            &format!("{precision}, least cosine to f32"),
            format!("{least:.6}"),
        );
        let same = number(&row["same_of_ten_nearest"]) * 100.0;
        line(
            &format!("{precision}, the same among the ten nearest"),
            format!("{same:.2} %"),
        );
    }
    if let Some(rows) = figures["to_peers"].as_array() {
        table += "\n| | peer | ours | peer's | times as good |\n|---|---|---|---|---|\n";
        for row in rows {
            let [ours, theirs] = ["ours", "theirs"].map(|field| match number(&row[field]) {
                small @ ..100.0 => format!("{small:.2}"),
                large => whole(large),
            });
            table += &format!(
                "| {} | {} | {ours} | {theirs} | {:.2} |\n",
                row["figure"].as_str().unwrap(),
                row["peer"].as_str().unwrap(),
                number(&row["times"]),
            );
        }
    }
    table
}

/// A placement of queries and background work, as the program's tables name it.
fn placement(row: &Value) -> &'static str {
    match row["placement"].as_str().unwrap() {
        "alone_on_whole_gpu" => "alone, whole GPU",
        "alone_in_partition" => "alone, in a partition",
        "plain_streams" => "two plain streams",
        "priorities" => "high- and low-priority streams",
        "partitions" => "flood in another partition",
        "flood_in_primary" => "partition, flood in the primary context",
        other => panic!("{other} has no name"),
    }
}

fn flood(row: &Value) -> &'static str {
    match row["flood"].as_str() {
        None => "none",
        Some("matrix") => "matrix products",
        Some("copies") => "memory copies",
        Some("training") => "training steps",
        Some("bulk") => "bulk embedding",
        Some("tiny") => "tiny launches",
        Some(other) => panic!("{other} has no name"),
    }
}

/// A number that may be missing, with so many digits after the point.
fn or_dash(value: &Value, digits: usize) -> String {
    let value = value.as_f64();
    value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}

/// A time in microseconds that may be missing, in milliseconds.
fn ms(value: &Value) -> String {
    let value = value.as_f64();
    value.map_or("–".to_owned(), |us| match us / 1e3 {
        ms @ ..1.0 => format!("{ms:.3}"),
        ms @ ..10.0 => format!("{ms:.2}"),
        ms => format!("{ms:.1}"),
    })
}

/// Returns whether there is evidence of a query beside background work.
fn has_service() -> bool {
    fs::exists(format!(
        "{}/evidence/service.json",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
}

/// A query beside matrix products by the ways to place both: what the picture shows, in numbers.
fn service_short() -> String {
    if !has_service() {
        return "Not measured yet.\n".to_owned();
    }
    let figures = figures("service");
    let mut table = "| | p50, ms | p99, ms | p99 / alone in the partition | background kept | queries/s with a p99 within 5 ms |\n|---|---|---|---|---|---|\n".to_owned();
    let rows = figures["one_caller"].as_array().unwrap().iter();
    for row in rows.filter(|row| row["flood"].is_null() || row["flood"] == "matrix") {
        let within = figures["within_bound"].as_array().unwrap().iter();
        let mut within = within.filter(|within| within["placement"] == row["placement"]);
        let rate = match within.next().unwrap()["per_s"].as_f64().unwrap() {
            0.0 => "none".to_owned(),
            rate => thousands(rate.round() as u64),
        };
        table += &format!(
            "| {} | {} | {} | {} | {} | {rate} |\n",
            placement(row),
            ms(&row["p50_us"]),
            ms(&row["p99_us"]),
            or_dash(&row["ratios"]["p99_to_partition"], 2),
            or_dash(&row["ratios"]["background_kept"], 2),
        );
    }
    table
}

/// All of it: what was measured, one caller, the open loop, elastic lanes and the goals.
fn service() -> String {
    if !has_service() {
        return "Not measured yet.\n".to_owned();
    }
    let figures = figures("service");
    let setting = &figures["setting"];
    let number = |value: &Value| value.as_f64().unwrap();
    let whole = |value: &Value| thousands(number(value).round() as u64);
    let mut table = format!(
        "{} in {}, queries of {:.0} tokens in a partition of {} SMs, floods on the other {}; {} cores, {} threads that send; {} repeats of everything, in turn, in {:.0} s. Arrivals: {}.\n\n",
        setting["model"].as_str().unwrap(),
        setting["precision"].as_str().unwrap(),
        number(&setting["tokens_of_text"]),
        setting["partition_sms"],
        setting["rest_sms"],
        setting["cores"],
        setting["senders"],
        setting["repeats"],
        number(&setting["seconds"]),
        setting["arrivals"].as_str().unwrap(),
    );
    table += "| flood | what it is | alone on the whole GPU | alone on the other SMs | SM clock, MHz | W |\n|---|---|---|---|---|---|\n";
    for row in figures["floods"].as_array().unwrap() {
        let pace =
            |field: &str| format!("{} {}", whole(&row[field]), row["unit"].as_str().unwrap());
        table += &format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            flood(row),
            row["what"].as_str().unwrap(),
            pace("whole_gpu_per_s"),
            pace("rest_per_s"),
            or_dash(&row["sm_clock_mhz"], 0),
            or_dash(&row["watts"], 0),
        );
    }
    table += "\nOne caller, whose next query comes half a millisecond after the answer to the one before, in milliseconds:\n\n| flood | | p50 | p99 | p99 of the repeats | p99.9 | / alone in the partition | at its clock | / alone on the whole GPU | background kept | SM clock, MHz |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
    for row in figures["one_caller"].as_array().unwrap() {
        let repeats = row["p99_of_repeats_us"].as_array().unwrap();
        let (ratios, times) = (&row["ratios"], |field: &str| ms(&row[field]));
        let ratio = |field: &str| or_dash(&ratios[field], 2);
        table += &format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            flood(row),
            placement(row),
            times("p50_us"),
            times("p99_us"),
            repeats.iter().map(ms).collect::<Vec<_>>().join(", "),
            times("p999_us"),
            ratio("p99_to_partition"),
            ratio("p99_to_partition_at_its_clock"),
            ratio("p99_to_whole_gpu"),
            ratio("background_kept"),
            or_dash(&row["sm_clock_mhz"], 0),
        );
    }
    for row in figures["capacity"].as_array().unwrap() {
        table += &format!(
            "\nCapacity {}, with {} queries on the way for each sender: {} queries/s.\n",
            placement(row),
            setting["on_the_way"],
            whole(&row["texts_per_s"])
        );
    }
    table += "\nOpen loop, latencies from the moment at which a query was due, in milliseconds; a dash where so many were refused:\n\n| flood | | queries/s | p50 | p99 | p99.9 | in 5 ms/s | in 10 ms/s | in 50 ms/s | background kept | generator late, p99 and most |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
    for row in figures["open_loop"].as_array().unwrap() {
        let times = |field: &str| ms(&row[field]);
        table += &format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {}, {} |\n",
            flood(row),
            placement(row),
            whole(&row["offered_per_s"]),
            times("p50_us"),
            times("p99_us"),
            times("p999_us"),
            whole(&row["within_5_ms_per_s"]),
            whole(&row["within_10_ms_per_s"]),
            whole(&row["within_50_ms_per_s"]),
            or_dash(&row["background_kept"], 2),
            times("lateness_p99_us"),
            times("lateness_max_us"),
        );
    }
    table += &elastic(&figures["elastic"]);
    table + &goals(&figures)
}

/// The goals that were set before a measurement, and what came of them.
fn goals(figures: &Value) -> String {
    let mut table = "\n| goal | found | |\n|---|---|---|\n".to_owned();
    for goal in figures["goals"].as_array().unwrap() {
        let at_most = goal["at_most"].as_bool().unwrap();
        let bound = goal["bound"].as_f64().unwrap();
        let is_met = goal["found"].as_f64().is_some_and(|found| match at_most {
            true => found <= bound,
            false => found >= bound,
        });
        table += &format!(
            "| {} {} {bound} | {}{} | {} |\n",
            goal["what"].as_str().unwrap(),
            if at_most { "≤" } else { "≥" },
            if goal["or_more"] == true {
                "at least "
            } else {
                ""
            },
            or_dash(&goal["found"], 2),
            if is_met { "met" } else { "missed" },
        );
    }
    table
}

/// What elastic lanes give and cost, if they were measured.
fn elastic(figures: &Value) -> String {
    if figures.is_null() {
        return String::new();
    }
    if let Some(reason) = figures["off"].as_str() {
        return format!("\nThe lanes could not be elastic: {reason}.\n");
    }
    let [first, usual] = ["first", "usual"].map(|name| {
        let times = &figures[name];
        format!("{} and {} ms", ms(&times["p50_us"]), ms(&times["p99_us"]))
    });
    let failed = figures["failed_rebalances"].as_u64().unwrap();
    let failed = match failed {
        0 => String::new(),
        failed => format!(", {failed} of them in vain"),
    };
    format!(
        "\nElastic lanes: without queries, bulk work has {} of its pace on the whole GPU. Beside it, the p50 and p99 of a query after a pause are {first}, of queries that follow one another {usual}. SMs changed hands {} times{failed}.\n",
        or_dash(&figures["bulk_to_whole_gpu"], 2),
        figures["rebalances"],
    )
}

/// A request of one process beside a flood of another, once there is evidence of it.
fn processes() -> String {
    let path = format!("{}/evidence/processes.json", env!("CARGO_MANIFEST_DIR"));
    match fs::exists(path).unwrap() {
        true => processes_of(&figures("processes")),
        false => "MPS and MIG were read about, not measured here.\n".to_owned(),
    }
}

/// The placements of two processes, in the order of the table.
const PLACEMENTS: [(&str, &str); 7] = [
    ("time_slices", "no MPS: time slices"),
    (
        "time_slices_green",
        "no MPS, `cuda-green` in both: time slices",
    ),
    ("mps", "MPS, no limits"),
    ("mps_priorities", "MPS, client priorities"),
    ("mps_percentages", "MPS, thread percentages"),
    (
        "mps_green",
        "**MPS, `cuda-green` in both: partitions of one plan**",
    ),
    ("mps_same_group", "MPS, green contexts over the same SMs"),
];

fn processes_of(figures: &Value) -> String {
    let rows = figures["rows"].as_array().unwrap();
    let row = |placement: &str, flood: Option<&str>| {
        let mut rows = rows.iter();
        let row = rows.find(|row| row["placement"] == placement && row["flood"].as_str() == flood);
        row.unwrap_or(&Value::Null)
    };
    let whole = |value: &Value| {
        let value = value.as_f64();
        value.map_or("–".to_owned(), |value| thousands(value.round() as u64))
    };
    let times = |row: &Value| {
        let [p50, p99] = ["p50_us", "p99_us"].map(|field| whole(&row[field]["median"]));
        format!("{p50} / {p99}")
    };
    let setting = &figures["setting"];
    let [request, flood] = [0, 1].map(|which| &setting["thread_percentages"][which]);
    let mut table = format!(
        "Two processes on one GPU, by `cuda-green bench processes`: the p50 / p99 of a request of one in microseconds, the median of {} repeats, alone and beside a flood of the other. The pace is the flood's beside requests, as a share of its pace alone on the whole GPU without MPS. The percentages are {request} and {flood}; the partitions of `cuda-green` have {} and {} SMs.\n\n",
        setting["repeats"],
        row("mps_green", None)["sm_counts"][0],
        row("mps_green", None)["sm_counts"][1],
    );
    table += "| | alone | beside blocks of 2 ms | p99 / alone | pace | beside matrix products | p99 / alone | pace | SM clock, MHz: alone, blocks, products |\n|---|---|---|---|---|---|---|---|---|\n";
    for (placement, name) in PLACEMENTS {
        let alone = row(placement, None);
        table += &format!("| {name} | {} |", times(alone));
        let mut clocks = vec![or_dash(&alone["sm_clock_mhz"], 0)];
        for flood in ["blocks", "matrix"] {
            let beside = row(placement, Some(flood));
            let pace = |row: &Value, field: &str| row[field]["median"].as_f64();
            let whole_gpu = pace(row("time_slices", Some(flood)), "flood_alone_per_s");
            let pace = pace(beside, "flood_beside_per_s")
                .zip(whole_gpu)
                .map(|(beside, alone)| beside / alone);
            table += &format!(
                " {} | {} | {} |",
                times(beside),
                or_dash(&beside["p99_to_alone"]["median"], 2),
                or_dash(&serde_json::json!(pace), 2),
            );
            clocks.push(or_dash(&beside["sm_clock_mhz"], 0));
        }
        table += &format!(" {} |\n", clocks.join(", "));
    }
    if let Some(join) = figures["join"].as_object() {
        let [join_us, first, create] = [
            &join["join_us"]["median"],
            &join["first_us"],
            &join["create_us"]["median"],
        ]
        .map(whole);
        table += &format!(
            "\nA process joins a plan in force in {join_us} µs, the first time in {first}; to create the context alone takes {create}.\n"
        );
    }
    for reason in figures["skipped"].as_array().unwrap() {
        table += &format!("\nNot measured: {}.\n", reason.as_str().unwrap());
    }
    table += &goals(figures);
    table
        + "\nStatic partitions of MPS, which drivers have from CUDA 13.1 on, and MIG were read about, not measured here.\n"
}

#[test]
fn the_table_of_processes_has_each_placement() {
    let found = |median: f64| serde_json::json!({ "median": median, "repeats": [median] });
    let rows = PLACEMENTS.iter().flat_map(|(placement, _)| {
        [None, Some("blocks"), Some("matrix")].map(|flood| {
            serde_json::json!({
                "placement": placement, "flood": flood, "sm_counts": [32, 100],
                "p50_us": found(1234.4), "p99_us": found(2000.0), "p99_to_alone": found(1.5),
                "flood_alone_per_s": found(100.0), "flood_beside_per_s": found(75.0),
                "sm_clock_mhz": 1980.2,
            })
        })
    });
    let mut figures = serde_json::json!({
        "setting": { "repeats": 5, "thread_percentages": [25, 75] },
        "rows": rows.collect::<Vec<_>>(), "skipped": [], "goals": [],
        "join": { "join_us": found(1100.4), "first_us": 1500.0, "create_us": found(900.0) },
    });
    let table = processes_of(&figures);
    let beside = "1,234 / 2,000 | 1.50 | 0.75 |";
    let line = format!(
        "| MPS, client priorities | 1,234 / 2,000 | {beside} {beside} 1980, 1980, 1980 |\n"
    );
    assert!(table.contains(&line), "{table}");
    assert!(table.contains("in 1,100 µs, the first time in 1,500; to create"));
    // Without a daemon, most are missing.
    figures["rows"].as_array_mut().unwrap().truncate(6);
    let line = "| MPS, client priorities | – / – | – / – | – | – | – / – | – | – | –, –, – |\n";
    assert!(processes_of(&figures).contains(line));
}

/// Returns the queue's figures, once there is evidence of them.
fn queue_figures() -> Option<Value> {
    let path = format!("{}/evidence/queue.json", env!("CARGO_MANIFEST_DIR"));
    fs::exists(path).unwrap().then(|| figures("queue"))
}

/// The rows of a way to do something: by the queue, and by hand.
fn queue_rows<'a>(figures: &'a Value, what: &str, by: &str) -> Vec<&'a Value> {
    let rows = figures["rows"].as_array().unwrap().iter();
    rows.filter(|row| row["what"] == what && row["by"] == by)
        .collect()
}

/// The medians of a row's round trips.
fn trip(row: &Value) -> String {
    let trips = &row["trips"];
    let [p50, p99] = ["p50_us", "p99_us"].map(|name| or_dash(&trips[name]["median"], 2));
    format!("{p50} / {p99}")
}

/// What a task costs, in a few lines.
fn queue_short() -> String {
    let Some(figures) = queue_figures() else {
        return "Not measured yet.\n".to_owned();
    };
    let mut table = "| | p50 / p99, µs |\n|---|---|\n".to_owned();
    for (name, what, by) in [
        (
            "a flag of a kernel to the CPU and back, by hand",
            "ping_pong",
            "raw",
        ),
        ("an empty task and its answer", "inline", "queue"),
        (
            "a task of the CPU to a resident kernel, and its answer",
            "resident",
            "queue",
        ),
        ("a launch and the wait for its end", "launch", "raw"),
    ] {
        for row in queue_rows(&figures, what, by) {
            table += &format!("| {name} | {} |\n", trip(row));
        }
    }
    let best = queue_rows(&figures, "one_way", "queue").into_iter();
    let best = best.filter_map(|row| row["m_per_s"]["median"].as_f64());
    if let Some(best) = best.reduce(f64::max) {
        table += &format!("\nKernels submit up to {best:.0} million tasks a second.\n");
    }
    table
}

/// All of it: by the number of warps, beside hand-written loops, and the goals.
fn queue() -> String {
    let Some(figures) = queue_figures() else {
        return "Not measured yet.\n".to_owned();
    };
    let setting = &figures["setting"];
    let mut table = format!(
        "{} cores, {} repeats of everything in turn.\n\n| round trips | p50 / p99, µs |\n|---|---|\n",
        setting["cores"], setting["repeats"]
    );
    for (name, what, by) in [
        (
            "a flag of a kernel to the CPU and back, by hand",
            "ping_pong",
            "raw",
        ),
        (
            "an empty task and its answer, inline handler",
            "inline",
            "queue",
        ),
        ("the same by hand", "inline", "raw"),
        ("the same by a handler on the pool", "pooled", "queue"),
        (
            "a flag of the CPU to a kernel and back, by hand",
            "host_ping_pong",
            "raw",
        ),
        (
            "a task of the CPU to a resident kernel, and its answer",
            "resident",
            "queue",
        ),
        ("a launch and the wait for its end", "launch", "raw"),
        (
            "a kernel's task to a resident kernel, and its answer",
            "kernel_to_kernel",
            "queue",
        ),
    ] {
        for row in queue_rows(&figures, what, by) {
            table += &format!("| {name} | {} |\n", trip(row));
        }
    }
    for (title, what) in [
        ("million tasks a second, one way", "one_way"),
        ("the same, warp-wide", "warp_wide"),
        ("round trips of many warps, p50 / p99, µs", "round_trip"),
    ] {
        table += &by_warps(&figures, title, what);
    }
    for row in figures["host"].as_array().unwrap() {
        table += &format!(
            "\nA task of the CPU to the CPU, {} future: {} ns to submit, {} ns with the run, {} ns with the answer.\n",
            row["path"].as_str().unwrap(),
            or_dash(&row["submit_ns"]["median"], 0),
            or_dash(&row["all_ns"]["median"], 0),
            or_dash(&row["answered_ns"]["median"], 0),
        );
    }
    if let Some(beside) = figures["beside"].as_object() {
        table += &format!(
            "\nThe time of {} on {} SMs, p50 / p99 in µs: {} alone, {} beside {} M tasks/s of another partition.\n",
            beside["request"].as_str().unwrap(),
            beside["partition_sms"],
            trip(&serde_json::json!({ "trips": beside["alone"] })),
            trip(&serde_json::json!({ "trips": beside["beside"] })),
            or_dash(&beside["found_m_per_s"]["median"], 1),
        );
    }
    table + &goals(&figures)
}

/// A table with a row for each way, and a column for each number of warps.
fn by_warps(figures: &Value, title: &str, what: &str) -> String {
    let rows = figures["rows"].as_array().unwrap().iter();
    let rows: Vec<_> = rows.filter(|row| row["what"] == what).collect();
    let mut warps: Vec<_> = rows
        .iter()
        .filter_map(|row| row["warps"].as_u64())
        .collect();
    warps.sort_unstable();
    warps.dedup();
    let way = |row: &Value| ["by", "lanes", "polling_threads"].map(|field| row[field].clone());
    let mut ways: Vec<_> = rows.iter().map(|row| way(row)).collect();
    ways.dedup();
    let columns: String = warps
        .iter()
        .map(|warps| match warps {
            1 => " 1 warp |".to_owned(),
            _ => format!(" {} warps |", thousands(*warps)),
        })
        .collect();
    let mut table = format!(
        "\n| {title} |{columns}\n|---|{}\n",
        "---|".repeat(warps.len())
    );
    for own in ways {
        let [by, lanes, threads] = &own;
        let by = if by == "queue" { "queue" } else { "by hand" };
        let lanes = if lanes == 1 {
            "1 lane".to_owned()
        } else {
            format!("{lanes} lanes")
        };
        let threads = if threads == 1 {
            "1 polling thread".to_owned()
        } else {
            format!("{threads} polling threads")
        };
        let cells = warps.iter().map(|warps| {
            let row = rows
                .iter()
                .find(|row| way(row) == own && row["warps"] == *warps);
            row.map_or("–".to_owned(), |row| match what {
                "round_trip" => trip(row),
                _ => or_dash(&row["m_per_s"]["median"], 2),
            })
        });
        let cells: Vec<_> = cells.collect();
        table += &format!("| {by}, {lanes}, {threads} | {} |\n", cells.join(" | "));
    }
    table
}

/// 14206 as 14,206.
fn thousands(number: u64) -> String {
    if number < 1000 {
        number.to_string()
    } else {
        format!("{},{:03}", thousands(number / 1000), number % 1000)
    }
}

#[test]
fn the_tables_are_those_of_the_evidence() {
    check_or_write(README, &[("isolation", isolation())]);
    // Once README.md has a place for it: `<!-- service_short: … -->` and `<!-- end -->`, as the others have.
    if fs::read_to_string(README)
        .unwrap()
        .contains("<!-- service_short:")
    {
        check_or_write(README, &[("service_short", service_short())]);
    }
    let costs = [
        ("host_cost", host_cost()),
        ("under_load", under_load()),
        ("memory", memory()),
        ("service", service()),
    ];
    check_or_write(COSTS, &costs);
    let embeddings = [("service_short", service_short()), ("embed", embed())];
    check_or_write(EMBED, &embeddings);
    check_or_write(README, &[("queue_short", queue_short())]);
    check_or_write(README, &[("processes", processes())]);
    check_or_write(QUEUE, &[("queue", queue())]);
    check_or_write(PRIORITIES, &[("priorities", priorities())]);
}

fn check_or_write(path: &str, tables: &[(&str, String)]) {
    let mut text = fs::read_to_string(path).unwrap();
    for (name, table) in tables {
        let begin = text.find(&format!("<!-- {name}:")).unwrap();
        let from = begin + text[begin..].find("-->\n").unwrap() + 4;
        let to = from + text[from..].find("<!-- end -->").unwrap();
        if skip::bless() {
            text.replace_range(from..to, table);
        } else {
            assert_eq!(
                text[from..to],
                *table,
                "run `BLESS=1 cargo test --test readme`"
            );
        }
    }
    if skip::bless() {
        fs::write(path, text).unwrap();
    }
}
