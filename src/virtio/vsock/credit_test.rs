use proptest::prelude::*;

use super::*;
use crate::virtio::vsock::packet::{Operation, Ports};

fn header() -> Header {
    Header::to_guest(3, Ports { host: 1, guest: 2 }, Operation::CreditUpdate)
}

fn says(buf_alloc: u32, fwd_cnt: u32) -> Header {
    Header {
        buf_alloc,
        fwd_cnt,
        ..header()
    }
}

#[test]
fn a_guest_that_grants_nothing_gets_nothing() {
    let mut credit = Credit::new(100);
    assert_eq!(credit.available(), 0);
    credit.learn(&says(10, 0));
    credit.send(10);
    assert_eq!(credit.available(), 0);
    credit.learn(&says(10, 4));
    assert_eq!(credit.available(), 4);
    // It takes its grant back.
    credit.learn(&says(3, 4));
    assert_eq!(credit.available(), 0);
    // It has passed on more than it got.
    credit.learn(&says(10, 11));
    assert_eq!(credit.available(), 0);
}

#[test]
fn the_guest_hears_of_its_credit_before_it_runs_out() {
    let mut credit = Credit::new(100);
    credit.receive(50).unwrap();
    credit.forward(50);
    assert!(!credit.update_is_due());
    credit.receive(1).unwrap();
    assert!(credit.update_is_due());
    let mut packet = header();
    credit.tell(&mut packet);
    credit.told();
    assert_eq!((packet.buf_alloc, packet.fwd_cnt), (100, 50));
    assert!(!credit.update_is_due());
    // There is nothing to tell while nothing is passed on.
    credit.receive(99).unwrap();
    assert!(!credit.update_is_due());
    assert_eq!(credit.receive(1), Err(Overrun));
    assert_eq!(credit.receive(u32::MAX), Err(Overrun));
}

proptest! {
    /// A guest that believes what it hears never overruns the window, and one that may send nothing has an update coming.
    #[test]
    fn what_a_guest_believes_is_never_more_than_the_truth(
        window in 1u32..100,
        steps in prop::collection::vec((0u8..3, 0u32..120), 0..200),
        beginning in prop::sample::select(vec![0, u32::MAX - 50]),
    ) {
        let mut credit = Credit { received: beginning, forwarded: beginning, announced: beginning, ..Credit::new(window) };
        let (mut sent, mut heard) = (beginning, beginning);
        for (step, count) in steps {
            match step {
                0 => {
                    let may = window - sent.wrapping_sub(heard);
                    let count = count.min(may);
                    prop_assert_eq!(credit.receive(count), Ok(()));
                    sent = sent.wrapping_add(count);
                }
                1 => {
                    let held = credit.received.wrapping_sub(credit.forwarded);
                    credit.forward(count.min(held));
                }
                _ if credit.update_is_due() => {
                    let mut packet = header();
                    credit.tell(&mut packet);
                    credit.told();
                    heard = packet.fwd_cnt;
                }
                _ => (),
            }
            let may = window - sent.wrapping_sub(heard);
            let held = credit.received.wrapping_sub(credit.forwarded);
            prop_assert!(may > 0 || held == window || credit.update_is_due());
        }
    }
}
