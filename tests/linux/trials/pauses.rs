//! A guest that is paused and resumed again and again while it works, by code that holds its machine: there is no terminal
//! and no `coracle` process.

use std::fs;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use coracle::config::{Config, Disk};
use coracle::console::{Console, Pace, Read};
use coracle::machine::{Machine, OpenFiles, Outcome};
use coracle::timeline::Timeline;

use crate::images::{noise, raw, scratch, sparse};
use crate::place;

crate::group!["pauses": a_guest_under_load_loses_nothing_in_many_pauses];

fn pauses() -> usize {
    if place::is_full() { 200 } else { 40 }
}
/// Bytes that the guest prints between two pauses.
const APART: usize = 100;
/// Far more than it takes on the nested machine's clock.
const PATIENCE: Duration = Duration::from_secs(150);

/// Two vCPUs copy and compare blocks of disks while a third one prints. What went wrong is counted afterwards: comparisons
/// that failed, and what the kernel says of disks, clocks and processors that stood still. The brackets keep the script,
/// which is a part of the kernel's command line and so of its log, from being found.
const SCRIPT: &str = "stty raw; touch /bad /rounds; \
    copy() { while [ ! -e /stop ]; do \
        dd if=/dev/vdb of=/dev/$1 bs=64k conv=fsync 2>/dev/null || echo dd >>/bad; \
        echo 3 >/proc/sys/vm/drop_caches; cmp /dev/vdb /dev/$1 2>>/bad || echo cmp >>/bad; echo >>/rounds; \
    done; }; \
    copy vdc & copy vdd & printf BEGIN; cat /dev/vda; touch /stop; wait; stty sane; \
    dmesg | grep -i -e 'erro[r]' -e 'stal[l]' -e 'locku[p]' -e 'unstabl[e]' -e 'watchdo[g]' >>/bad; \
    echo; echo rounds $(wc -l </rounds) bad $(wc -l </bad).; cat /bad";

fn a_guest_under_load_loses_nothing_in_many_pauses() {
    let count = pauses();
    let scratch = scratch();
    let printed = noise(7, ((count + 1) * APART).next_multiple_of(512));
    let copied = noise(8, 256 << 10);
    let disk = |path| Disk::new(path);
    let config = Config {
        cpus: 4,
        cmdline: format!("-- sh -c \"{SCRIPT}\""),
        disks: vec![
            disk(raw(&scratch, "printed", &printed)),
            disk(raw(&scratch, "copied", &copied)),
            disk(sparse(&scratch, "one", copied.len() as u64)),
            disk(sparse(&scratch, "other", copied.len() as u64)),
        ],
        ..Config::default()
    };
    let opened = OpenFiles::open(&config).unwrap();
    let console = Console::default();
    let mut reader = console.attach(Pace::GuestWaits);
    let machine = Machine::build(&config, &opened, "", console.sink(), &Timeline::off()).unwrap();
    let running = machine.start().unwrap();
    console.connect(running.serial().clone());

    let (mut output, mut pauses) = (Vec::new(), Vec::new());
    let (ended, end) = channel();
    let outcome = thread::scope(|scope| {
        let (running, console) = (&running, &console);
        let waits = scope.spawn(move || {
            let outcome = running.wait();
            console.end();
            let _ = ended.send(());
            outcome
        });
        scope.spawn(move || {
            // Otherwise a guest that stands still would be waited for without end.
            if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                running.end(Outcome::Signal(libc::SIGALRM));
            }
        });
        let (mut bytes, mut begin) = (Vec::new(), None);
        while let Read::Bytes { missed: 0 } = reader.read(&mut bytes) {
            output.append(&mut bytes);
            begin = begin.or_else(|| find(&output, b"BEGIN"));
            let due = begin.is_some_and(|begin| output.len() >= begin + pauses.len() * APART);
            if due && pauses.len() < count {
                let ordered = Instant::now();
                if !running.pause() {
                    break;
                }
                pauses.push(ordered.elapsed());
                running.resume();
            }
        }
        waits.join().unwrap()
    });

    let said = String::from_utf8_lossy(&output);
    assert!(matches!(*outcome, Outcome::PoweredOff), "{outcome:?}\n{said}");
    assert_eq!(pauses.len(), count, "the run ended before\n{said}");
    let begin = find(&output, b"BEGIN").expect("the guest began") + b"BEGIN".len();
    let (first, rest) = output[begin..].split_at(printed.len());
    assert!(first == printed, "the guest's output changed on its way");
    let rest = String::from_utf8_lossy(rest);
    let rounds = rest
        .split_once("rounds ")
        .and_then(|(_, rest)| rest.split_once(" bad 0."))
        .and_then(|(rounds, _)| rounds.parse::<usize>().ok());
    assert!(rounds.is_some_and(|rounds| rounds >= 2), "{rest}");
    for name in ["one", "other"] {
        assert!(
            fs::read(scratch.path().join(name)).unwrap() == copied,
            "disk {name}"
        );
    }
    pauses.sort();
    eprintln!(
        "{count} pauses of 4 vCPUs and 4 disks, {} rounds of copies: half within {:?}, all within {:?}",
        rounds.unwrap_or_default(),
        pauses[count / 2],
        pauses[count - 1]
    );
}

/// Where `bytes` first has `wanted`.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
