//! The entropy device's driver that writes anything to registers, rings and descriptors: the process may not suffer, and
//! a reset brings the device back.
#![no_main]

use coracle::virtio::entropy::Entropy;
use coracle_fuzz::hostile_driver::{Driver, Step};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    /// Feature bits, of which only those count that the device offers.
    features: u64,
    steps: Vec<Step>,
}

fuzz_target!(|input: Input| {
    let driver = Driver::new(Box::new(Entropy::default()));
    driver.start_in_order(input.features);
    for step in &input.steps {
        driver.take(step);
    }
    let (one, other) = (driver.read_after_a_reset(512), driver.read_after_a_reset(512));
    driver.stop();
    assert!(one.data[..32] != other.data[..32], "the same bytes came twice");
    assert!(one.status == 0xff, "more than a short answer came");
});
