//! Images whose tables are as large as they may be, opened by a process that has little more address space than the
//! budget for them.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::test_image::*;
use super::*;
use crate::virtio::block::image::opening::QCOW2_MAGIC;

const VICTIM: &str = "CORACLE_QCOW2_SMALL_VICTIM";
const NAME: &str =
    "virtio::block::qcow2::budget::tests::no_chain_of_images_takes_more_memory_than_the_budget_for_tables";
/// What the process needs beside the tables: what is read at a time, its heap's waste, its threads.
const BESIDE: u64 = 160 << 20;
const CLUSTER_BITS: u32 = 21;
const CLUSTER: u64 = 1 << CLUSTER_BITS;

/// A sparse image of 2 MiB clusters with so many L1 entries, the first of which have L2 tables. They are clear.
fn image(path: &Path, entries: u64, tables: u64, backing: Option<&str>) {
    let l1_clusters = (entries * 8).div_ceil(CLUSTER);
    // Header, refcount table and block come first, then the L1 table.
    let first_table = 3 + l1_clusters;
    let clusters = first_table + tables;
    let size = entries << (2 * CLUSTER_BITS - 3);
    let name = backing.unwrap_or_default();
    let mut header = vec![0; 1024];
    let mut put = |place: usize, bytes: &[u8]| header[place..place + bytes.len()].copy_from_slice(bytes);
    put(0, &QCOW2_MAGIC);
    put(4, &3_u32.to_be_bytes());
    if backing.is_some() {
        put(8, &512_u64.to_be_bytes());
        put(16, &(name.len() as u32).to_be_bytes());
        put(104, &0xe279_2aca_u32.to_be_bytes());
        put(108, &5_u32.to_be_bytes());
        put(112, b"qcow2");
        put(512, name.as_bytes());
    }
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &(entries as u32).to_be_bytes());
    put(40, &(3 * CLUSTER).to_be_bytes());
    put(48, &CLUSTER.to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    let file = File::create(path).unwrap();
    file.set_len(clusters * CLUSTER).unwrap();
    file.write_all_at(&header, 0).unwrap();
    file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER).unwrap();
    for cluster in 0..clusters {
        file.write_all_at(&1_u16.to_be_bytes(), 2 * CLUSTER + 2 * cluster)
            .unwrap();
    }
    for table in 0..tables {
        let entry = (1 << 63) | ((first_table + table) * CLUSTER);
        file.write_all_at(&entry.to_be_bytes(), 3 * CLUSTER + 8 * table)
            .unwrap();
    }
}

/// So many images, each on the one before.
fn chain(images: &Images, count: usize, entries: u64, tables: u64) -> PathBuf {
    let name = |index| format!("{index}.qcow2");
    for index in 0..count {
        let below = index.checked_sub(1).map(name);
        image(&images.path(&name(index)), entries, tables, below.as_deref());
    }
    images.path(&name(count - 1))
}

/// Has this process have no more address space than it has now, and so much.
fn limit_address_space(more: u64) {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let bytes = pages * 4096 + more;
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: the limit is read during the call alone.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

/// Opens an image and looks at all of its L2 tables, and writes to each if it opens. Prints what came of that.
fn victim(path: &Path) {
    limit_address_space(TABLES + BESIDE);
    match try_open(&disk(path)) {
        Err(error) => println!("refused: {error}"),
        Ok(image) => {
            let span = CLUSTER * (CLUSTER / 8);
            for offset in (0..image.size()).step_by(span as usize) {
                image.get(offset as usize, 512);
                image.put(offset as usize, &[7; 512]).unwrap();
            }
            image.flush().unwrap();
            println!("opened");
        }
    }
}

fn outcome(path: &Path) -> String {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(VICTIM, path)
        // Its arenas are reserved by the gigabyte, and are not memory.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn no_chain_of_images_takes_more_memory_than_the_budget_for_tables() {
    if let Some(path) = env::var_os(VICTIM) {
        return victim(Path::new(&path));
    }
    for (count, entries, tables, is_opened) in [
        // As many L2 tables as are cached, 256 MiB of them.
        (1, 130, 130, true),
        (2, 130, 130, false),
        (64, 130, 130, false),
        // L1 tables of 32 MiB.
        (64, 4 << 20, 0, false),
        // What is not there takes nothing.
        (64, 2, 2, true),
    ] {
        let images = Images::new();
        let outcome = outcome(&chain(&images, count, entries, tables));
        match is_opened {
            true => assert!(outcome.contains("opened"), "{count} of {entries}: {outcome}"),
            false => assert!(
                outcome.contains("more than 512 MiB of memory") && outcome.contains("qemu-img convert"),
                "{count} of {entries}: {outcome}"
            ),
        }
    }
}
