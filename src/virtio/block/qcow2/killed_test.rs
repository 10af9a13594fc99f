//! The program is killed at any moment, again and again: what a flush has acknowledged is there, and QEMU finds no
//! corruption.

use std::env;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;

const VICTIM: &str = "CORACLE_QCOW2_VICTIM";
const NAME: &str = "virtio::block::qcow2::tests::killed::what_was_flushed_survives_a_kill_at_any_moment";
/// How many times; to the victim, which time it is.
const ROUNDS: &str = "ROUNDS";

const SECTORS: u64 = 32_768;
const OPERATIONS: u64 = 20_000;

/// Numbers that look random, the same ones for the victim and for who looks at what it left.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

enum Step {
    Write {
        sector: u64,
        sectors: u64,
    },
    Zero {
        sector: u64,
        sectors: u64,
        discard: bool,
    },
    Flush,
}

fn steps(round: u64) -> impl Iterator<Item = (u64, Step)> {
    let mut numbers = Numbers(round * 7919);
    (1..OPERATIONS).map(move |number| {
        let sector = numbers.next(SECTORS);
        let sectors = 1 + numbers.next(24).min(SECTORS - sector - 1);
        let step = match numbers.next(20) {
            0..13 => Step::Write { sector, sectors },
            13 => Step::Zero {
                sector,
                sectors,
                discard: true,
            },
            14..16 => Step::Zero {
                sector,
                sectors,
                discard: false,
            },
            _ => Step::Flush,
        };
        (number, step)
    })
}

/// What a step writes into each of its sectors.
fn record(round: u64, number: u64) -> [u8; 512] {
    let mut record = [0; 512];
    for place in record.chunks_exact_mut(16) {
        place[..8].copy_from_slice(&round.to_le_bytes());
        place[8..].copy_from_slice(&number.to_le_bytes());
    }
    record
}

fn victim(path: &Path) {
    let round: u64 = env::var(ROUNDS).unwrap().parse().unwrap();
    let image = open(path);
    let acknowledged = File::options()
        .write(true)
        .open(path.with_extension("flushed"))
        .unwrap();
    println!("ready");
    std::io::stdout().flush().unwrap();
    for (number, step) in steps(round) {
        match step {
            Step::Write { sector, sectors } => {
                let data = record(round, number).repeat(sectors as usize);
                image.put((sector * 512) as usize, &data).unwrap();
            }
            Step::Zero {
                sector,
                sectors,
                discard: true,
            } => image.discard(sector * 512, sectors * 512).unwrap(),
            Step::Zero { sector, sectors, .. } => {
                let may_unmap = number % 2 == 0;
                image
                    .write_zeroes(sector * 512, sectors * 512, may_unmap)
                    .unwrap();
            }
            Step::Flush => {
                image.flush().unwrap();
                acknowledged.write_all_at(&number.to_le_bytes(), 0).unwrap();
            }
        }
    }
}

fn start_victim(path: &Path, round: u64) -> Child {
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(VICTIM, path)
        .env(ROUNDS, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = victim.stdout.take().unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"ready\n") {
        let mut byte = [0];
        assert_eq!(
            std::io::Read::read(&mut output, &mut byte).unwrap(),
            1,
            "the victim did not start"
        );
        seen.push(byte[0]);
    }
    victim
}

/// Each sector is what the last acknowledged step made of it, or what a later one did.
fn check(before: &[u8], after: &[u8], round: u64, flushed: u64) {
    let mut allowed: Vec<Vec<[u8; 512]>> = before
        .as_chunks::<512>()
        .0
        .iter()
        .map(|sector| vec![*sector])
        .collect();
    for (number, step) in steps(round) {
        let (sector, sectors, record, is_certain) = match step {
            Step::Write { sector, sectors } => (sector, sectors, record(round, number), true),
            Step::Zero {
                sector,
                sectors,
                discard,
            } => (sector, sectors, [0; 512], !discard),
            Step::Flush => continue,
        };
        for versions in &mut allowed[sector as usize..(sector + sectors) as usize] {
            if number < flushed && is_certain {
                versions.clear();
            }
            versions.push(record);
        }
    }
    for (sector, (now, versions)) in after.as_chunks::<512>().0.iter().zip(&allowed).enumerate() {
        assert!(
            versions.contains(now),
            "round {round}: sector {sector} lost what was flushed at {flushed}"
        );
    }
}

fn kill_again_and_again(options: &str, is_outside: bool, rounds: u64) {
    let images = Images::new();
    images.raw("base", &pattern(9));
    let options = match is_outside {
        true => &*images.data_outside("image", options),
        false => options,
    };
    let path = images.on("image", options, "base", "raw", SECTORS * 512);
    let mut before = images.contents(&path);
    let mut leaked = 0;
    for round in 1..=rounds {
        let flushed = images.raw("image.flushed", &0_u64.to_le_bytes());
        let mut victim = start_victim(&path, round);
        thread::sleep(Duration::from_micros(Numbers(round).next(60_000)));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let flushed = u64::from_le_bytes(fs::read(flushed).unwrap().try_into().unwrap());
        let report = qemu_img(&["check", "-f", "qcow2", text(&path)]);
        match report.status.code() {
            Some(0) => {}
            Some(3) => leaked += 1,
            _ => panic!("{options}, round {round}, flushed {flushed}: {report:?}"),
        }
        let after = images.contents(&path);
        check(&before, &after, round, flushed);
        assert!(
            open(&path).get(0, after.len()) == after,
            "{options}, round {round}: read differently"
        );
        before = after;
    }
    println!("{options}: {rounds} rounds, clusters leaked after {leaked}");
}

#[test]
fn what_was_flushed_survives_a_kill_at_any_moment() {
    if let Some(path) = env::var_os(VICTIM) {
        return victim(Path::new(&path));
    }
    need_qemu_img();
    let rounds = env::var(ROUNDS).map_or(3, |rounds| rounds.parse().unwrap());
    thread::scope(|scope| {
        for (options, is_outside) in [
            ("cluster_size=512", false),
            ("cluster_size=4096,refcount_bits=64", false),
            ("compat=0.10,cluster_size=512", false),
            ("cluster_size=512", true),
        ] {
            scope.spawn(move || kill_again_and_again(options, is_outside, rounds));
        }
    });
}
