//! Guest memory, and the memory that the process uses beside it.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use crate::harbour::Harbour;
use crate::images::{initrd_with, scratch};
use crate::place;
use crate::run::Coracle;

crate::group!["memory":
    a_guest_of_5_gib_sees_all_of_it_and_uses_what_is_above_4_gib,
    a_guest_of_64_mib_sees_all_of_it,
    the_first_program_may_take_nine_tenths_of_the_memory_at_once,
    the_process_dirties_at_most_half_a_megabyte_beside_guest_memory,
    an_idle_guest_in_the_background_costs_half_a_mebibyte_and_wakes_no_thread_but_its_vcpus,
];

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What no PC's kernel counts as memory, below 1 MiB: the first page, and 640 KiB to 1 MiB with the tables before it.
const LEGACY_HOLES: u64 = 400 * KIB;

fn a_guest_of_64_mib_sees_all_of_it() {
    check(64, "");
}

fn a_guest_of_5_gib_sees_all_of_it_and_uses_what_is_above_4_gib() {
    // The kernel takes memory from the lowest address up, and the machine below has too little to fill 4 GiB: what is
    // above is written and read at its addresses, where nothing is yet. 4608 MiB is 512 MiB when its upper half is lost.
    const BLOCK: u64 = 64 * KIB;
    let count = if place::is_full() { 512 } else { 1 };
    let (above, below) = (4608 * MIB / BLOCK, 512 * MIB / BLOCK);
    let script = format!(
        "; dd if=/dev/urandom of=/tmp/file bs={BLOCK} count={count} 2>/dev/null; md5sum </tmp/file; \
         dd if=/tmp/file of=/dev/mem conv=notrunc bs={BLOCK} seek={above} 2>/dev/null; \
         dd if=/dev/mem bs={BLOCK} skip={above} count={count} 2>/dev/null | md5sum; \
         dd if=/dev/mem bs={BLOCK} skip={below} count={count} 2>/dev/null | md5sum"
    );
    let console = check(5 << 10, &script);
    let sums: Vec<&str> = console
        .lines()
        .filter_map(|line| line.strip_suffix("  -"))
        .collect();
    assert!(
        matches!(sums[..], [file, above, below] if file == above && file != below),
        "{console}"
    );
}

fn the_first_program_may_take_nine_tenths_of_the_memory_at_once() {
    // The built-in kernel prepares most of the memory once init runs, or when it is asked for.
    let sizes: &[u64] = if place::is_full() {
        &[64, 128, 1 << 10, 4 << 10, 8 << 10]
    } else {
        &[64, 128, 1 << 10]
    };
    let folder = scratch();
    let initrd = initrd_with(&folder, "memory", 0o755, &fs::read(place::memory()).unwrap());
    for &mebibytes in sizes {
        // In the smallest guest the kernel and the files of the initrd are more than a tenth.
        let percent = if mebibytes == 64 { 80 } else { 90 };
        let finished = Coracle::run()
            .args([
                "--memory",
                &format!("{mebibytes}M"),
                "--initrd",
                initrd.to_str().unwrap(),
            ])
            .args([
                "--cmdline",
                &format!("rdinit=/memory memory.percent={percent} -- true"),
            ])
            .end();
        finished.assert_powered_off();
        let console = finished.console();
        assert!(
            console.contains("kept what was written"),
            "{mebibytes} MiB: {finished}"
        );
    }
}

/// The memory map has every byte but the legacy holes. Of that, the kernel keeps itself and its tables (at most 32 MiB),
/// a `struct page` of 64 bytes for each page of 4 KiB and, once there is memory above 4 GiB, 64 MiB of bounce buffers
/// for devices that cannot reach it (swiotlb).
fn check(mebibytes: u64, then: &str) -> String {
    let finished = Coracle::run()
        .args(["--memory", &format!("{mebibytes}M")])
        .script(&format!(
            "grep 'System RAM' /proc/iomem; grep MemTotal: /proc/meminfo{then}"
        ))
        .end();
    finished.assert_powered_off();
    let console = finished.console();
    let size = mebibytes * MIB;
    let mapped: u64 = console
        .lines()
        .filter_map(|line| line.strip_suffix(" : System RAM")?.split_once('-'))
        .map(|(first, last)| address(last) + 1 - address(first))
        .sum();
    assert!(
        mapped <= size && mapped >= size - LEGACY_HOLES,
        "{mapped} of {size} bytes are in the memory map\n{finished}"
    );
    let bounce_buffers = if mebibytes > 3 << 10 { 64 * MIB } else { 0 };
    let kept = 32 * MIB + mapped / 64 + bounce_buffers;
    let total = number_after(&console, "MemTotal:") * KIB;
    assert!(
        total <= mapped && total >= mapped - kept,
        "{total} of {size} bytes are the kernel's to give\n{finished}"
    );
    console
}

fn address(digits: &str) -> u64 {
    u64::from_str_radix(digits.trim(), 16).unwrap()
}

fn number_after(text: &str, mark: &str) -> u64 {
    let (_, rest) = text
        .split_once(mark)
        .unwrap_or_else(|| panic!("no {mark:?} in:\n{text}"));
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

fn the_process_dirties_at_most_half_a_megabyte_beside_guest_memory() {
    // No other mapping has this size, so the test can find guest memory by it.
    const GUEST_MEMORY: u64 = 96 * MIB;
    let mut run = Coracle::run()
        .args(["--memory", "96M"])
        .with_input()
        .script("echo up; read")
        .start();
    run.wait_for("up");
    let sum = dirty_beside(run.id().into(), GUEST_MEMORY);
    eprintln!(
        "private dirty memory beside guest memory at the guest's init: {} KiB",
        sum / KIB
    );
    assert!(sum <= 500_000, "{sum} bytes are dirty beside guest memory");
    run.type_in("\n");
    run.end().assert_powered_off();
}

fn an_idle_guest_in_the_background_costs_half_a_mebibyte_and_wakes_no_thread_but_its_vcpus() {
    let harbour = Harbour::with_web(&["-m", "96M", "--", "sleep", "1000"]);
    let process = harbour.process_of_web();
    // Until then its kernel asks for random numbers more and more seldom, and from then on once a minute.
    thread::sleep(Duration::from_secs(150));
    let before = waits(process);
    thread::sleep(Duration::from_secs(60));
    for (thread, count) in waits(process) {
        let woken = count - before.get(&thread).copied().unwrap_or_default();
        // A second after a guest has asked for something, its first vCPU is looked at, once: it may have halted for good. The
        // signal for that makes the kernel look at whoever waits for signals.
        assert!(woken <= 3, "{thread} was woken {woken} times in a minute");
    }
    let sum = dirty_beside(process, 96 * MIB);
    eprintln!(
        "private dirty memory beside that of an idle guest in the background: {} KiB",
        sum / KIB
    );
    assert!(sum < MIB / 2, "{sum} bytes are dirty beside guest memory");
}

/// How often each of a process' threads has begun to wait so far (proc(5)), but for those of vCPUs, which wait when the guest does.
fn waits(process: u64) -> BTreeMap<String, u64> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let of_task = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let name = status
            .lines()
            .next()
            .unwrap()
            .replace("Name:", "")
            .trim()
            .to_owned();
        (name, number_after(&status, "\nvoluntary_ctxt_switches:"))
    };
    let tasks = tasks.flatten().map(of_task);
    tasks.filter(|(name, _)| !name.starts_with("vcpu-")).collect()
}

/// How many bytes a process has dirtied that no other process shares, beside guest memory of this size.
fn dirty_beside(process: u64, memory: u64) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let mappings = mappings(&smaps);
    let guest = guest_memory(&mappings, memory);
    let (guest, beside): (Vec<_>, Vec<_>) = mappings
        .iter()
        .partition(|mapping| guest.contains(&mapping.range.start));
    // `Private_Dirty` counts the program's own pages too where its file is in memory, and no other process maps them
    // at this moment.
    let dirty: Vec<_> = beside
        .iter()
        .filter(|mapping| mapping.anonymous > 0)
        .map(|mapping| (mapping.anonymous, mapping.line))
        .collect();
    let touched: u64 = guest.iter().map(|mapping| mapping.anonymous).sum();
    assert!(touched > MIB, "guest memory was not found:\n{smaps}");
    eprintln!("dirty beside guest memory: {dirty:#?}");
    dirty.iter().map(|(bytes, _)| bytes).sum()
}

struct Mapping<'a> {
    line: &'a str,
    range: Range<u64>,
    /// Bytes that no other process shares.
    anonymous: u64,
}

/// The mappings of `/proc/PID/smaps`.
fn mappings(smaps: &str) -> Vec<Mapping<'_>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if line.starts_with("Anonymous:") {
            mappings.last_mut().unwrap().anonymous = number_after(line, ":") * KIB;
        } else if let Some((start, rest)) = line.split_once('-')
            && let Ok(start) = u64::from_str_radix(start, 16)
        {
            let end = address(rest.split_once(' ').unwrap().0);
            mappings.push(Mapping {
                line,
                range: start..end,
                anonymous: 0,
            });
        }
    }
    mappings
}

/// Guest memory consists of several adjacent mappings, whose sizes add up to its size.
fn guest_memory(mappings: &[Mapping], size: u64) -> Range<u64> {
    let from = |first: usize| {
        let start = mappings[first].range.start;
        let mut end = start;
        for mapping in &mappings[first..] {
            if mapping.range.start != end || end - start >= size {
                break;
            }
            end = mapping.range.end;
        }
        start..end
    };
    (0..mappings.len())
        .map(from)
        .find(|range| range.end - range.start == size)
        .expect("guest memory is mapped")
}
