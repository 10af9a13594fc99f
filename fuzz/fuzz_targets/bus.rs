//! Compares the bus with a simple model: a list of ranges that is searched from its start.
#![no_main]

use std::sync::{Arc, Mutex, PoisonError};

use coracle::bus::{Bus, BusDevice};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    Attach {
        base: Place,
        length: Place,
    },
    Read {
        address: Place,
        width: Width,
    },
    Write {
        address: Place,
        data: [u8; 8],
        width: Width,
    },
}

/// A number that is likely to be near another, or near an end of the address space.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    Low(u8),
    Last(u8),
    Any(u64),
}

/// The width of an access: 1 to 8 bytes.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Width(u8);

impl Width {
    fn bytes(self) -> usize {
        usize::from(self.0 % 8) + 1
    }
}

impl From<Place> for u64 {
    fn from(place: Place) -> Self {
        match place {
            Place::Low(value) => value.into(),
            Place::Last(value) => u64::MAX - u64::from(value),
            Place::Any(value) => value,
        }
    }
}

/// Device, offset, width, and what was written.
type Access = (usize, u64, usize, Option<Vec<u8>>);

#[derive(Default)]
struct Log(Mutex<Vec<Access>>);

impl Log {
    fn add(&self, access: Access) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(access);
    }

    fn take(&self) -> Vec<Access> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A device that reads as its own number.
struct Device {
    number: usize,
    log: Arc<Log>,
}

impl BusDevice for Device {
    fn read(&self, offset: u64, data: &mut [u8]) {
        assert!(
            data.iter().all(|byte| *byte == 0xff),
            "absent registers read as ones"
        );
        data.fill(self.number as u8);
        self.log.add((self.number, offset, data.len(), None));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.log
            .add((self.number, offset, data.len(), Some(data.to_vec())));
    }
}

/// First and last address of each range, in order of attachment.
#[derive(Default)]
struct Model(Vec<(u64, u64)>);

impl Model {
    fn attach(&mut self, base: u64, length: u64) -> bool {
        let Some(last) = length.checked_sub(1).and_then(|length| base.checked_add(length)) else {
            return false;
        };
        let free = self.0.iter().all(|range| last < range.0 || range.1 < base);
        if free {
            self.0.push((base, last));
        }
        free
    }

    fn find(&self, address: u64, width: usize) -> Option<(usize, u64)> {
        let end = u128::from(address) + width as u128;
        let number = self
            .0
            .iter()
            .position(|&(base, last)| (base..=last).contains(&address) && end <= u128::from(last) + 1)?;
        Some((number, address - self.0[number].0))
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let (mut bus, mut model, log) = (Bus::default(), Model::default(), Arc::new(Log::default()));
    for step in steps {
        match step {
            Step::Attach { base, length } => {
                let device = Device {
                    number: model.0.len(),
                    log: log.clone(),
                };
                let (base, length) = (base.into(), length.into());
                let attached = bus.attach(base, length, Arc::new(device)).is_ok();
                assert_eq!(attached, model.attach(base, length));
            }
            Step::Read { address, width } => {
                let (address, mut data) = (address.into(), vec![0; width.bytes()]);
                bus.read(address, &mut data);
                let found = model.find(address, data.len());
                let expected = found.map_or(0xff, |(number, _)| number as u8);
                assert!(data.iter().all(|byte| *byte == expected));
                let access = found.map(|(number, offset)| (number, offset, data.len(), None));
                assert_eq!(log.take(), Vec::from_iter(access));
            }
            Step::Write { address, data, width } => {
                let (address, data) = (address.into(), &data[..width.bytes()]);
                bus.write(address, data);
                let access = model
                    .find(address, data.len())
                    .map(|(number, offset)| (number, offset, data.len(), Some(data.to_vec())));
                assert_eq!(log.take(), Vec::from_iter(access));
            }
        }
    }
});
