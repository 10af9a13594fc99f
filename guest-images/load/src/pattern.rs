//! Which transfers to make.

use std::str::FromStr;

/// Transfers of one kind, all of one size.
#[derive(Debug, PartialEq)]
pub struct Pattern {
    pub writes: bool,
    pub random: bool,
    pub bytes: usize,
    /// How many are under way at a time.
    pub depth: usize,
    pub count: usize,
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let [kind, bytes, depth, count] = parts[..] else {
            return Err("it is not KIND:BYTES:DEPTH:COUNT".into());
        };
        let (writes, random) = match kind {
            "read" => (false, false),
            "write" => (true, false),
            "randread" => (false, true),
            "randwrite" => (true, true),
            _ => return Err(format!("{kind} is none of read, write, randread, randwrite")),
        };
        let number = |text: &str| match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("{text} is no number from 1 up")),
        };
        Ok(Self {
            writes,
            random,
            bytes: number(bytes)?,
            depth: number(depth)?,
            count: number(count)?,
        })
    }
}

/// Where transfers go on a device, the same places each time.
pub struct Offsets {
    bytes: u64,
    /// Places on the device.
    places: u64,
    random: bool,
    state: u64,
}

impl Offsets {
    pub fn new(pattern: &Pattern, size: u64) -> Result<Self, String> {
        let bytes = pattern.bytes as u64;
        match size / bytes {
            0 => Err(format!("the device has only {size} bytes")),
            places => Ok(Self {
                bytes,
                places,
                random: pattern.random,
                state: 0,
            }),
        }
    }

    /// The next `count` offsets.
    pub fn take(&mut self, count: usize) -> impl ExactSizeIterator<Item = u64> {
        (0..count).map(|_| self.next())
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(1);
        let place = match self.random {
            true => scramble(self.state) % self.places,
            false => (self.state - 1) % self.places,
        };
        place * self.bytes
    }
}

/// The mixing step of splitmix64: a different number without a pattern for each.
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_four_parts() {
        let pattern = Pattern {
            writes: true,
            random: true,
            bytes: 4096,
            depth: 32,
            count: 8000,
        };
        assert_eq!("randwrite:4096:32:8000".parse(), Ok(pattern));
        for wrong in [
            "",
            "read",
            "read:1:1",
            "read:1:1:1:1",
            "trim:1:1:1",
            "read:0:1:1",
            "read:1:-1:1",
        ] {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_transfer_is_inside_of_the_device() {
        for kind in ["read", "randread"] {
            let pattern = format!("{kind}:4096:1:1").parse().unwrap();
            let mut offsets = Offsets::new(&pattern, 10 * 4096 + 512).unwrap();
            let taken: Vec<u64> = offsets.take(1000).collect();
            assert!(
                taken
                    .iter()
                    .all(|offset| offset % 4096 == 0 && *offset < 10 * 4096)
            );
            // All ten places come up.
            assert!((0..10).all(|place| taken.contains(&(place * 4096))));
        }
        assert!(Offsets::new(&"read:4096:1:1".parse().unwrap(), 4095).is_err());
    }
}
