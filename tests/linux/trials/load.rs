//! Debian's fio in a guest with Debian's kernel: it reads what it wrote, at any size and queue depth, between discards and
//! flushes, and although `coracle` is stopped now and then. The loads are in tests/nested/fio-guest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use libc::{SIGCONT, SIGSTOP};

use crate::place;
use crate::run::{Coracle, Run};
use crate::torture::Room;

crate::group!["load": ; too_slow_here() =>
    what_fio_reads_past_the_page_cache_is_what_it_wrote_although_coracle_is_stopped_meanwhile,
    what_fio_reads_call_by_call_is_what_it_wrote_although_coracle_is_stopped_meanwhile,
    what_fio_reads_from_a_qcow2_image_is_what_it_wrote_although_coracle_is_stopped_meanwhile,
];

fn too_slow_here() -> Option<&'static str> {
    (place::is_inside() && !place::is_full()).then_some("hours on this machine's clock: make torture")
}

const SIZE: u64 = 128 << 20;

/// Loads in tests/nested/fio-guest.
const LOADS: usize = 16;

/// What the guest prints when a load is over.
const ENDED: &str = " ended with ";

/// How often a load is repeated where the processor is real: it would be over before it could be stopped. In a nested
/// machine a request takes milliseconds.
const LOOPS: u32 = 8;

fn what_fio_reads_past_the_page_cache_is_what_it_wrote_although_coracle_is_stopped_meanwhile() {
    load(",engine=uring,cache=direct");
}

fn what_fio_reads_call_by_call_is_what_it_wrote_although_coracle_is_stopped_meanwhile() {
    load(",engine=sync,cache=writeback");
}

fn what_fio_reads_from_a_qcow2_image_is_what_it_wrote_although_coracle_is_stopped_meanwhile() {
    load(",format=qcow2");
}

fn load(options: &str) {
    let room = Room::make().unwrap();
    let image = image(&room.root(), options);
    let stock = place::stock();
    let loops = if place::is_inside() { 1 } else { LOOPS };
    let mut running = Coracle::run()
        .args(["--kernel".as_ref(), stock.join("vmlinuz").as_os_str()])
        .args(["--initrd".as_ref(), stock.join("stock-initrd").as_os_str()])
        .args(["--cpus", "4", "--memory", "512M"])
        .args(["--disk", &format!("{},ro", stock.join("fio.ext4").display())])
        .args(["--disk", &format!("{}{options}", image.display())])
        .args([
            "--cmdline",
            &format!("{} coracle.script=fio-guest loops={loops}", place::STOCK_QUICKLY),
        ])
        .patience(4000)
        .start();
    let mut stopped = 0;
    for number in 0..LOADS {
        running.wait_for(" begins");
        let before = changed(&image);
        eprintln!(
            "fio on a disk with options {options:?}: load {} of {LOADS}",
            number + 1
        );
        // fio takes long to start. It has started when it writes.
        while changed(&image) == before && !running.has_printed(ENDED) {
            thread::sleep(Duration::from_millis(5));
        }
        // Each load is stopped at a different moment.
        thread::sleep(Duration::from_millis(20 + 40 * (number as u64 % 7)));
        if !running.has_printed(ENDED) {
            stopped += 1;
        }
        stop_for_a_second(&running);
    }
    let finished = running.end();
    finished
        .assert_powered_off()
        .assert_prints("fio: 0 loads failed\n");
    let console = finished.console();
    eprintln!("fio on a disk with options {options:?}:");
    for line in console.lines().filter(|line| line.starts_with("fio: ")) {
        eprintln!("{line}");
    }
    let verified = console.matches("fio:   READ ").count();
    assert_eq!(verified, LOADS, "loads that read what they wrote\n{finished}");
    eprintln!("coracle was stopped in the middle of {stopped} loads");
    assert!(stopped > 0, "no load was stopped\n{finished}");
}

/// When the file was changed last.
fn changed(file: &Path) -> SystemTime {
    fs::metadata(file).unwrap().modified().unwrap()
}

fn stop_for_a_second(running: &Run) {
    running.signal(SIGSTOP);
    thread::sleep(Duration::from_secs(1));
    running.signal(SIGCONT);
}

/// A disk of zeros.
fn image(directory: &Path, options: &str) -> PathBuf {
    let image = directory.join("image");
    match options.contains("qcow2") {
        true => drop(fs::copy(place::stock().join("empty.qcow2"), &image).unwrap()),
        false => File::create(&image).unwrap().set_len(SIZE).unwrap(),
    }
    image
}
