use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::named::Harbour;
use crate::support::running::PATIENCE;

guest!(
    wait_for_interrupts_for_ever,
    "
    say \"afloat\\n\"
2:
    sti
    hlt
    jmp 2b
"
);

/// How long an idle guest is watched: ten times as long as the ticks of a guest that works are apart.
const WATCHED: Duration = Duration::from_secs(10);

/// How often each thread of a process has begun to wait so far (proc(5), `voluntary_ctxt_switches`).
fn waits(process: i64) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let of_task = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap().trim().to_owned()
        };
        let name = format!("{} {}", value("Name:"), value("Pid:"));
        (name, value("voluntary_ctxt_switches:").parse().unwrap())
    };
    tasks.flatten().map(of_task).collect()
}

#[test]
fn an_idle_guest_in_the_background_wakes_no_thread() {
    let harbour = Harbour::new();
    let kernel = wait_for_interrupts_for_ever().linux64();
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let disk = disk.path().to_str().unwrap();
    let options = ["-d", "--name", "web", "--cpus", "2", "--disk", disk];
    harbour.run(&kernel, &options).end().with_code(0).in_silence();
    let inspected: serde_json::Value = serde_json::from_str(&harbour.say(&["inspect", "web"])).unwrap();
    let process = inspected[0]["process"].as_i64().unwrap();
    // The start is over once nothing has happened for a while: longer than the first ticks are apart.
    let deadline = Instant::now() + PATIENCE;
    let mut before = waits(process);
    loop {
        thread::sleep(WATCHED);
        let now = waits(process);
        if now == before {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "within {WATCHED:?} threads woke: {before:?}, and then {now:?}"
        );
        before = now;
    }
}
