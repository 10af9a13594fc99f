//! Acknowledged means durable: `coracle` is killed while its guest writes, many times, and nothing that the guest was told
//! is durable may be missing afterwards. `make torture` runs many rounds; a trial runs a few.

pub mod cut;
mod random;
mod report;
mod room;
mod round;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use crate::place;
use random::Random;
use report::{Message, Report};
pub use room::Room;
use round::{DISKS, Guest, Image, Round};

/// How many rounds use one image before a new one is made.
const ROUNDS_OF_A_BLOCK: u64 = 4;

/// The longest time until `coracle` is killed. A guest writes its first record after about 50 ms.
const LONGEST: Duration = Duration::from_millis(300);

/// The program that makes and checks qcow2 images, as a `--file` of nested machines.
const QEMU_IMG: &str = "/usr/bin/qemu-img:/usr/bin/qemu-img";

/// How many rounds a trial runs.
const ROUNDS_OF_A_TRIAL: u64 = 2;

crate::group!["torture":
    what_a_guest_was_told_to_be_durable_survives_that_coracle_is_killed,
    and_that_a_coracle_is_killed_whose_requests_are_the_hosts_kernels,
];

fn what_a_guest_was_told_to_be_durable_survives_that_coracle_is_killed() {
    trial(0);
}

fn and_that_a_coracle_is_killed_whose_requests_are_the_hosts_kernels() {
    trial(1);
}

fn trial(disk: usize) {
    let mut acknowledged = 0;
    block(1, disk as u64, ROUNDS_OF_A_TRIAL, &mut |round| {
        eprintln!("{round}");
        assert!(round.is_good(), "{round:#?}");
        acknowledged += round.acknowledged;
    })
    .unwrap();
    assert!(acknowledged > 0, "no record was written");
}

/// Runs the rounds of the block with this number, and calls `done` with the result of each.
fn block(seed: u64, number: u64, rounds: u64, done: &mut dyn FnMut(Round)) -> Result<(), String> {
    let mut random = Random::new(seed ^ number << 32);
    let room = Room::make()?;
    let guest = Guest::new();
    let disk = (number % DISKS.len() as u64) as usize;
    let new_image = |random: &mut Random| {
        let image = Image::new(&room.root(), random.next() >> 1, disk);
        image.make().map(|()| image)
    };
    let mut image = new_image(&mut random)?;
    for _ in 0..rounds {
        let round = image.round(&guest, random.below(LONGEST));
        if !round.is_good() {
            image = new_image(&mut random)?;
        }
        done(round);
    }
    Ok(())
}

/// `--torture ROUNDS CUTS SEED` runs at least that many rounds and power cuts, and prints the results.
pub fn main(arguments: &[String]) -> ExitCode {
    let numbers: Vec<u64> = arguments.iter().filter_map(|text| text.parse().ok()).collect();
    let [rounds, cuts, seed] = numbers[..] else {
        eprintln!("usage: --torture ROUNDS CUTS SEED");
        return ExitCode::FAILURE;
    };
    if let Err(why) = place::prepare(|_| false).and_then(|()| place::need(&["qemu-utils"])) {
        eprintln!("torture: {why}");
        return ExitCode::FAILURE;
    }
    eprintln!("torture: {rounds} rounds and {cuts} power cuts; this seed repeats them: {seed}");
    let blocks = (0..rounds.div_ceil(ROUNDS_OF_A_BLOCK)).collect();
    let report = Mutex::new(Report::default());
    report::run_blocks(seed, blocks, &report);
    cut::cuts(seed, cuts, &report);
    let report = report.into_inner().unwrap();
    println!("{report}");
    match report.is_good() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// `--torture-blocks SEED BLOCK...` runs these blocks in this process, for [`report::run_blocks`].
pub fn blocks(arguments: &[String]) -> ExitCode {
    let numbers: Option<Vec<u64>> = arguments.iter().map(|text| text.parse().ok()).collect();
    let Some((seed, numbers)) = numbers.as_deref().and_then(<[u64]>::split_first) else {
        return ExitCode::FAILURE;
    };
    for number in numbers {
        let run = || {
            block(*seed, *number, ROUNDS_OF_A_BLOCK, &mut |round| {
                Message::Round(round).send()
            })
        };
        let failed = match catch_unwind(run) {
            Ok(done) => done.err(),
            Err(panic) => Some(crate::message(&*panic)),
        };
        let number = *number;
        Message::End { number, failed }.send();
    }
    ExitCode::SUCCESS
}
