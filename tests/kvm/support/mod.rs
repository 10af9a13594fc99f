//! What the tests share: guests made of assembly, and the program that runs them.

/// The program under test, as a command line.
pub mod command;
/// A guest as a kernel file.
pub mod elf;
/// The program under test when it has ended.
pub mod ended;
/// Assembly as bytes.
#[macro_use]
pub mod guest;
/// A home with images in it.
pub mod home;
/// The program under test as a job of a shell.
pub mod job;
/// Threads of the program under test, taken over.
pub mod owned;
/// Pipes between the program under test and a test.
pub mod pipe;
/// Queues as a driver lays them out, made on the host.
pub mod queue;
/// A registry of images.
pub mod registry;
/// The program under test, as a process.
pub mod running;
/// What a terminal shows.
pub mod screen;
/// A pseudo-terminal.
#[path = "../../linux/terminal.rs"]
pub mod terminal;
/// A program that is killed at a system call.
#[path = "../../linux/traced.rs"]
pub mod traced;

pub use command::Coracle;
pub use elf::{Guest, Kernel};
pub use ended::Ended;
pub use home::Home;
pub use running::Running;

/// Fails the test where there is no KVM.
pub fn need_kvm() {
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        panic!("this test needs KVM: cannot open /dev/kvm: {error} (cargo test --lib runs what needs none)");
    }
}

/// The seed of this run's generated input: `CORACLE_TEST_SEED`, or the time. Shown when a test fails.
pub fn seed() -> u64 {
    let chosen = std::env::var("CORACLE_TEST_SEED").ok();
    let seed = match chosen {
        Some(text) => text.parse().expect("CORACLE_TEST_SEED is a number"),
        None => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(1, |time| time.as_nanos() as u64 | 1),
    };
    println!("CORACLE_TEST_SEED={seed} repeats this run");
    seed
}

/// Xorshift: the same numbers for the same seed, on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[(self.next() >> 32) as usize % choices.len()]
    }
}

/// A little-endian number out of what a guest sent.
pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

/// A little-endian number out of what a guest sent.
pub fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// Text up to its NUL.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .expect("a NUL ends the text");
    String::from_utf8(bytes[..end].to_vec()).expect("the text is UTF-8")
}
