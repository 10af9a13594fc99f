//! The memory of a start: of the runner, and of the workload in it.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;

use serde::Serialize;

const KIB: u64 = 1 << 10;
/// No mapping of a VMM but guest memory is as large as this, the least that a guest has.
const GUEST_MEMORY_MIN: u64 = 32 << 20;

/// Bytes of memory that belong to one start alone: what other processes share with it, such as the pages of program
/// files, would be there without it, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What the runner's processes have beside the workload: what the runner adds.
    pub runner: u64,
    /// What the guest has touched of its memory; the processes in the container.
    pub guest: u64,
    /// The most memory that the runner's processes ever had at once, shared memory and the guest's included.
    pub peak: u64,
}

/// The processes of this host at one moment.
pub struct Processes {
    children: HashMap<u32, Vec<u32>>,
}

impl Processes {
    pub fn read() -> Self {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            if let Some(parent) = parent(&stat) {
                children.entry(parent).or_default().push(id);
            }
        }
        Self { children }
    }

    /// A process and all that descend from it.
    fn tree(&self, root: u32) -> Vec<u32> {
        let mut tree = vec![root];
        let mut next = 0;
        while let Some(id) = tree.get(next) {
            tree.extend(self.children.get(id).into_iter().flatten());
            next += 1;
        }
        tree
    }

    /// The memory of a runner's process and its descendants; a VMM has a guest with so many bytes of memory. None when
    /// the process has ended.
    pub fn memory(&self, runner: u32, guest_memory: Option<u64>) -> Option<Memory> {
        let is_vmm = guest_memory.is_some();
        let ours = fs::read_link("/proc/self/ns/pid").ok();
        let mut sum = Memory::default();
        for id in self.tree(runner) {
            let Ok(smaps) = fs::read_to_string(format!("/proc/{id}/smaps")) else {
                continue;
            };
            let (beside, guest) = private(&smaps, guest_memory.unwrap_or(0));
            let is_in_container = !is_vmm && fs::read_link(format!("/proc/{id}/ns/pid")).ok() != ours;
            if is_in_container {
                sum.guest += beside + guest;
                continue;
            }
            match is_vmm {
                true => sum.guest += guest,
                false => sum.runner += guest,
            }
            sum.runner += beside;
            let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            sum.peak += status
                .lines()
                .find_map(|line| kibibytes(line, "VmHWM"))
                .unwrap_or(0);
        }
        // The process of a runner has memory as long as it lives.
        (sum.peak > 0).then_some(sum)
    }
}

/// What is free for new processes, in bytes.
pub fn available() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    meminfo.lines().find_map(|line| kibibytes(line, "MemAvailable"))
}

/// The fourth field of /proc/PID/stat; the second one is a name in parentheses, which may hold anything.
fn parent(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// The bytes in a line `NAME:   123 kB`.
fn kibibytes(line: &str, name: &str) -> Option<u64> {
    let value = line.strip_prefix(name)?.strip_prefix(':')?;
    let number: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(number.saturating_mul(KIB))
}

/// A mapping of /proc/PID/smaps.
#[derive(Default)]
struct Mapping {
    start: u64,
    end: u64,
    is_writable: bool,
    is_shared: bool,
    /// Bytes in memory, and those of them that are anonymous: private copies, and memory without a file.
    resident: u64,
    anonymous: u64,
}

/// Private bytes outside of guest memory, and those of guest memory.
///
/// What is anonymous is private; the fields that say `Private` also count pages of files that nobody else happens to
/// map. Guest memory may be several mappings, anonymous ones and copies of parts of files, without a gap between them.
/// Others may touch it, a thread's stack for example: where a part of them has its size, that part is it.
fn private(smaps: &str, guest_memory: u64) -> (u64, u64) {
    let (mut beside, mut guest) = (0, 0);
    let mappings = mappings(smaps);
    for run in mappings.chunk_by(|one, next| one.end == next.start && one.is_writable && next.is_writable) {
        let size: u64 = run.iter().map(|mapping| mapping.end - mapping.start).sum();
        let is_large = size >= GUEST_MEMORY_MIN && run[0].is_writable;
        let exact = part_of_size(run, guest_memory).unwrap_or(0..run.len());
        for (index, mapping) in run.iter().enumerate() {
            let is_guest = is_large && exact.contains(&index);
            // A guest's memory may be a file in memory that only this VMM has.
            let bytes = match is_guest && mapping.is_shared {
                true => mapping.resident,
                false => mapping.anonymous,
            };
            match is_guest {
                true => guest += bytes,
                false => beside += bytes,
            }
        }
    }
    (beside, guest)
}

/// Neighbours in a run of mappings that have this size together.
fn part_of_size(run: &[Mapping], size: u64) -> Option<Range<usize>> {
    (0..run.len()).find_map(|first| {
        let end = run[first].start.checked_add(size)?;
        let last = run[first..].iter().position(|mapping| mapping.end == end)?;
        Some(first..first + last + 1)
    })
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = head(line) {
            mappings.push(mapping);
        } else if let Some(mapping) = mappings.last_mut() {
            if let Some(bytes) = kibibytes(line, "Rss") {
                mapping.resident = bytes;
            } else if let Some(bytes) = kibibytes(line, "Anonymous") {
                mapping.anonymous = bytes;
            }
        }
    }
    mappings
}

/// The first line of a mapping: `START-END PERMISSIONS ...`.
fn head(line: &str) -> Option<Mapping> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let (start, end) = (
        u64::from_str_radix(start, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
    );
    Some(Mapping {
        start,
        end: end.max(start),
        is_writable: permissions.contains('w'),
        is_shared: permissions.ends_with('s'),
        ..Mapping::default()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn guest_memory_is_one_run_of_mappings_whatever_it_is_made_of() {
        let smaps = "\
7f0000000000-7f0001000000 rw-p 00000000 00:00 0\nRss: 100 kB\nAnonymous: 100 kB\n\
7f0001000000-7f0001400000 rw-p 00200000 08:01 77 /usr/bin/coracle\nRss: 900 kB\nAnonymous: 40 kB\n\
7f0001400000-7f0004000000 rw-p 00000000 00:00 0\nRss: 8 kB\nAnonymous: 8 kB\nVmFlags: rd wr\n\
7f0004000000-7f0004001000 ---p 00000000 00:00 0\nRss: 0 kB\nAnonymous: 0 kB\n\
7f0004001000-7f0004201000 rw-p 00000000 00:00 0 [stack]\nRss: 16 kB\nAnonymous: 12 kB\n";
        assert_eq!(private(smaps, 64 << 20), (12 * KIB, 148 * KIB));
    }

    #[test]
    fn guest_memory_in_a_shared_file_counts_by_what_is_resident() {
        let smaps = "\
7f0000000000-7f0008000000 rw-s 00000000 00:01 9 /memfd:guest (deleted)\nRss: 500 kB\nAnonymous: 0 kB\n\
7f0008000000-7f0008100000 r--s 00000000 08:01 9 /lib/x\nRss: 300 kB\nAnonymous: 0 kB\n";
        assert_eq!(private(smaps, 128 << 20), (0, 500 * KIB));
    }

    #[test]
    fn a_stack_that_touches_guest_memory_is_the_runners() {
        let smaps = "\
7f0000000000-7f0000200000 rw-p 00000000 00:00 0\nRss: 12 kB\nAnonymous: 12 kB\n\
7f0000200000-7f0001200000 rw-p 00000000 00:00 0\nRss: 100 kB\nAnonymous: 100 kB\n\
7f0001200000-7f0004200000 rw-p 00000000 00:00 0\nRss: 40 kB\nAnonymous: 40 kB\n\
7f0004200000-7f0004201000 rw-p 00000000 00:00 0\nRss: 4 kB\nAnonymous: 4 kB\n";
        assert_eq!(private(smaps, 64 << 20), (16 * KIB, 140 * KIB));
        // Of another size it is told by being large alone.
        assert_eq!(private(smaps, 128 << 20), (0, 156 * KIB));
    }

    #[test]
    fn a_large_reservation_without_access_is_no_guest() {
        let smaps = "7f0000000000-7f0008000000 ---p 00000000 00:00 0\nRss: 0 kB\nAnonymous: 0 kB\n\
7f0008000000-7f0008100000 rw-p 00000000 00:00 0\nRss: 4 kB\nAnonymous: 4 kB\n";
        assert_eq!(private(smaps, 128 << 20), (4 * KIB, 0));
    }

    #[test]
    fn a_parent_is_found_behind_any_name() {
        assert_eq!(parent("12 (a) b (c) S 7 12 12"), Some(7));
        assert_eq!(parent("nothing"), None);
    }

    #[test]
    fn this_process_has_memory_and_no_guest() {
        let memory = Processes::read()
            .memory(std::process::id(), Some(128 << 20))
            .unwrap();
        assert!(memory.runner > 0 && memory.peak >= memory.runner, "{memory:?}");
        assert!(available().unwrap() > 0);
    }

    #[test]
    fn a_process_that_does_not_exist_has_no_memory() {
        assert_eq!(Processes::read().memory(u32::MAX, Some(128 << 20)), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "([0-9a-f]{1,17}-[0-9a-f]{1,17} rw-[ps]|Rss: {1,3}[0-9]{1,9} kB|\\PC{0,9}|\n){0,40}") {
            private(&text, 128 << 20);
        }
    }
}
