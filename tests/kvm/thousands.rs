use std::fs;
use std::thread;
use std::time::Instant;

use crate::kill_points::processes_with;
use crate::named::{Harbour, power_off_when_the_button_is_pressed};

/// Starts and stops so many guests in the background, so many at a time, and checks that nothing is left of them.
fn come_and_go(count: usize, at_once: usize) {
    let harbour = Harbour::new();
    let kernel = power_off_when_the_button_is_pressed().linux64();
    let begin = Instant::now();
    thread::scope(|scope| {
        for worker in 0..at_once {
            let (harbour, kernel) = (&harbour, &kernel);
            scope.spawn(move || {
                for number in (worker..count).step_by(at_once) {
                    let name = format!("guest-{number}");
                    let started = harbour.run(kernel, &["-d", "--name", &name, "-m", "32M"]).end();
                    assert_eq!(
                        started.with_code(0).in_silence().stdout,
                        format!("{name}\n").as_bytes()
                    );
                    assert_eq!(harbour.say(&["stop", "-t", "60", &name]), format!("{name}\n"));
                    assert_eq!(harbour.say(&["wait", &name]), "0\n");
                    harbour.say(&["rm", &name]);
                }
            });
        }
    });
    println!("{count} guests, {at_once} at a time, in {:?}", begin.elapsed());
    assert_eq!(harbour.say(&["ps", "-aq"]), "");
    assert_eq!(harbour.entries(), [""; 0]);
    let beside: Vec<_> = fs::read_dir(harbour.guests().parent().unwrap())
        .unwrap()
        .collect();
    assert_eq!(beside.len(), 1, "{beside:?}");
    let processes = processes_with(kernel.path().to_str().unwrap());
    assert!(processes.is_empty(), "{processes:?}");
}

#[test]
fn fifty_guests_at_a_time_come_and_go() {
    come_and_go(50, 50);
}

#[test]
#[ignore = "takes minutes: make torture"]
fn a_thousand_guests_come_and_go() {
    come_and_go(1000, 50);
}
