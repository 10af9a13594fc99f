use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use super::*;

#[test]
fn the_first_outcome_is_that_of_the_run() {
    let orders = Orders::new(1).unwrap();
    assert_eq!(orders.next(), Next::Enter);
    orders.stop(Outcome::PoweredOff);
    orders.stop(Outcome::Reset);
    assert_eq!(orders.next(), Next::Stop);
    assert_eq!(orders.ended().read().unwrap(), 1);
    assert!(matches!(orders.wait_for_outcome(), Some(Outcome::PoweredOff)));
}

/// Threads that look at the orders again and again, as vCPUs do. Each counts how often it might enter the guest, and returns
/// how often it went on after a pause.
fn vcpus(orders: &Arc<Orders>, entries: &Arc<[AtomicU64]>) -> Vec<thread::JoinHandle<u32>> {
    let vcpu = |index: usize| {
        let (orders, entries) = (orders.clone(), entries.clone());
        thread::spawn(move || {
            let mut pauses = 0;
            loop {
                match orders.next() {
                    Next::Enter => thread::yield_now(),
                    Next::EnterAfterPause => pauses += 1,
                    Next::Stop => return pauses,
                }
                entries[index].fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    (0..entries.len()).map(vcpu).collect()
}

fn counters(count: usize) -> Arc<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

#[test]
fn every_vcpu_stands_still_in_a_pause_and_goes_on_after_it() {
    const PAUSES: u32 = 50;
    let (orders, entries) = (Arc::new(Orders::new(4).unwrap()), counters(4));
    let vcpus = vcpus(&orders, &entries);
    let read = || {
        entries
            .iter()
            .map(|count| count.load(Ordering::SeqCst))
            .collect::<Vec<_>>()
    };
    for _ in 0..PAUSES {
        assert!(orders.pause());
        let before = read();
        // Twice is as good as once.
        assert!(orders.pause());
        (0..20).for_each(|_| thread::yield_now());
        assert_eq!(read(), before);
        orders.resume();
        while read().iter().zip(&before).any(|(now, before)| now == before) {
            thread::yield_now();
        }
    }
    orders.stop(Outcome::Quit);
    for vcpu in vcpus {
        assert_eq!(vcpu.join().unwrap(), PAUSES);
    }
}

#[test]
fn a_run_that_ends_ends_its_pause_and_does_not_pause_again() {
    let orders = Arc::new(Orders::new(2).unwrap());
    let vcpus = vcpus(&orders, &counters(2));
    assert!(orders.pause());
    orders.stop(Outcome::Quit);
    assert!(!orders.pause());
    orders.resume();
    assert_eq!(orders.next(), Next::Stop);
    for vcpu in vcpus {
        vcpu.join().unwrap();
    }
}

#[test]
fn a_pause_that_waits_for_a_vcpu_ends_with_the_run() {
    let orders = Arc::new(Orders::new(1).unwrap());
    let pausing = thread::spawn({
        let orders = orders.clone();
        move || orders.pause()
    });
    // The only vCPU never comes out of the guest. Whether the pause has begun by now makes no difference to what it returns.
    thread::sleep(Duration::from_millis(20));
    orders.stop(Outcome::Quit);
    assert!(!pausing.join().unwrap());
}
