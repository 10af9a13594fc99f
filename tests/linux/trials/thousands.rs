//! Thousands of commands in one guest, and a gibibyte: what they leave in the guest, in its process and in that of the client. The
//! nested machine has a part of it, unless all is asked for.

use std::fs;
use std::io::{Read, pipe};
use std::thread;
use std::time::{Duration, Instant};

use super::exec::{COUNT, exec, say, shell, wait_for_count};
use crate::harbour::Harbour;
use crate::place;

crate::group!["thousands":
    ten_thousand_commands_in_a_row_and_a_hundred_at_once_leave_nothing,
    a_gibibyte_reaches_a_slow_reader_whole_and_is_kept_nowhere,
];

const MIB: u64 = 1 << 20;

/// Of a process's memory or of all of it, in bytes: what is behind a name, in KiB (proc(5)).
fn memory(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("there is no {name} in {text}")) << 10
}

/// Does `work` in a guest of so many MiB, and checks that it leaves nothing: no program and no descriptor in the guest or in its
/// process, and no memory but what the guest may have.
fn leaves_nothing(mib: u64, work: impl FnOnce(&Harbour)) {
    let harbour = Harbour::with_web(&["-m", &format!("{mib}M")]);
    let available = || memory(&say(&harbour, "cat /proc/meminfo"), "MemAvailable:");
    // The first ones settle what the guest needs once, and its kernel puts most of its memory off.
    let deadline = Instant::now() + Duration::from_secs(10);
    while available() < mib * MIB / 2 {
        assert!(
            Instant::now() < deadline,
            "{} bytes are left in the guest",
            available()
        );
        thread::sleep(Duration::from_millis(100));
    }
    say(&harbour, COUNT);
    let before = (say(&harbour, COUNT), available());
    let open = harbour.descriptors_of_web();
    let begin = Instant::now();
    work(&harbour);
    let took = begin.elapsed();
    wait_for_count(&harbour, &before.0);
    assert_eq!(harbour.descriptors_of_web(), open);
    let status = fs::read_to_string(format!("/proc/{}/status", harbour.process_of_web())).unwrap();
    let (after, most) = (available(), memory(&status, "VmHWM:"));
    eprintln!(
        "in {took:?}; memory that the guest has left, in bytes: {} before and {after} after; that its process had at most: {most}",
        before.1
    );
    // The kernel's caches.
    assert!(
        after + 8 * MIB > before.1,
        "{} bytes were left, and {after} are",
        before.1
    );
    assert!(most < (mib + 16) * MIB, "its process had {most} bytes");
}

fn ten_thousand_commands_in_a_row_and_a_hundred_at_once_leave_nothing() {
    // In the nested machine each costs a tenth of a second of real time, and on a busy host a second.
    let in_a_row = if place::is_full() { 10_000 } else { 20 };
    leaves_nothing(256, |harbour| {
        for number in 0..in_a_row {
            let number = number.to_string();
            let finished = exec(harbour, &[], &["echo", &number]).end();
            finished.assert_powered_off();
            assert_eq!(finished.console().trim(), number);
            if number.ends_with("000") {
                eprintln!("{number} commands");
            }
        }
        // All run until the last has started.
        say(harbour, "mkfifo /tmp/gate");
        let script = "echo ready; read line </tmp/gate; echo done";
        let mut runs = Vec::new();
        for _ in 0..10 {
            // More at once would keep the last waiting for too long on a busy host.
            let mut ten: Vec<_> = (0..10).map(|_| shell(harbour, &[], script).start()).collect();
            ten.iter_mut().for_each(|run| run.wait_for("ready"));
            runs.extend(ten);
        }
        say(harbour, "echo >/tmp/gate; rm /tmp/gate");
        for run in runs {
            let finished = run.end();
            finished.assert_powered_off();
            assert_eq!(finished.stdout, b"ready\ndone\n", "{finished}");
        }
    });
}

fn a_gibibyte_reaches_a_slow_reader_whole_and_is_kept_nowhere() {
    let size = if place::is_full() { 1024 * MIB } else { 8 * MIB };
    leaves_nothing(64, |harbour| {
        let (mut reader, writer) = pipe().unwrap();
        let count = format!("count={}", size / (64 << 10));
        let run = exec(harbour, &[], &["dd", "if=/dev/zero", "bs=64k", &count])
            .patience(10_000)
            .stdout(writer)
            .start();
        let client = format!("/proc/{}/status", run.id());
        let (mut total, mut most) = (0, 0);
        let mut buffer = vec![0; MIB as usize];
        // A piece at a time, and now and then nothing for a while.
        while let count @ 1.. = reader.read(&mut buffer).unwrap() {
            assert!(buffer[..count].iter().all(|byte| *byte == 0));
            let sixteenths = |bytes| bytes * 16 / size;
            let before = total;
            total += count as u64;
            // The client waits for its reader, but for the last piece.
            if sixteenths(before) != sixteenths(total) && total < size {
                thread::sleep(Duration::from_millis(500));
                most = memory(&fs::read_to_string(&client).unwrap(), "VmHWM:");
            }
        }
        run.end().assert_code(0);
        assert_eq!(total, size);
        eprintln!("{size} bytes; the client's process had {most} at most");
        assert!((1..16 * MIB).contains(&most));
    });
}
