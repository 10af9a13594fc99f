use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use coracle::config::Config;
use coracle::devices::serial::Sink;
use coracle::machine::{Machine, OpenFiles, Outcome};
use coracle::timeline::Timeline;

use crate::support::process::{pipe, wait_until_full};
use crate::support::{Coracle, Guest, need_kvm};

guest!(
    spin_on_all,
    "
    # The others begin in real mode at 0x10000.
    lea rsi, [rip + 5f]
    mov edi, 0x10000
    mov ecx, 128
    rep movsb
    enable_local_apic
    # To all but this one: INIT, and SIPI twice.
    mov edi, 0xfee00300
    mov dword ptr [rdi], 0xc4500
    mov dword ptr [rdi], 0xc4610
    mov dword ptr [rdi], 0xc4610
    mov ebx, [0x300000]
2:
    pause
    cmp [0x11000], bl
    jne 2b
    say \"afloat\"
3:
    jmp 3b
5:
    .code16
    mov ax, 0x1000
    mov ds, ax
    lock inc byte ptr [0x1000]
6:
    jmp 6b
"
);

fn ends_although_its_parent_blocks_signals(cpus: u8) {
    need_kvm();
    let guest: Guest = spin_on_all().data(u32::from(cpus - 1).to_le_bytes());
    let mut running = Coracle::run(&guest.linux64())
        .args(&["--cpus", &cpus.to_string()])
        .with_all_signals_blocked()
        .start();
    running.wait_for("afloat");
    running.signal(libc::SIGTERM);
    running.end().with_code(143).saying(&["SIGTERM"]);
}

#[test]
fn sigterm_ends_a_guest_whose_parent_blocks_all_signals() {
    ends_although_its_parent_blocks_signals(1);
}

#[test]
fn sigterm_ends_four_processors_that_spin_although_the_parent_blocks_all_signals() {
    ends_although_its_parent_blocks_signals(4);
}

#[test]
fn sigterm_ends_a_guest_whose_parent_ignores_it() {
    need_kvm();
    let guest: Guest = spin_on_all().data(0_u32.to_le_bytes());
    let mut running = Coracle::run(&guest.linux64()).with_sigterm_ignored().start();
    running.wait_for("afloat");
    running.signal(libc::SIGTERM);
    running.end().with_code(143).saying(&["SIGTERM"]);
}

guest!(
    wait_for_words_of_a_stop,
    "
    # KVM's clock writes the time of this processor to 0x200000, and of the other one to 0x12000; its flags are 29 bytes on,
    # and bit 1 of them says that the guest was stopped.
    lea rsi, [rip + 5f]
    mov edi, 0x10000
    mov ecx, 128
    rep movsb
    enable_local_apic
    mov ecx, 0x4b564d01
    mov eax, 0x200001
    xor edx, edx
    wrmsr
    # To all but this one: INIT, and SIPI twice.
    mov edi, 0xfee00300
    mov dword ptr [rdi], 0xc4500
    mov dword ptr [rdi], 0xc4610
    mov dword ptr [rdi], 0xc4610
2:
    pause
    cmp byte ptr [0x11000], 1
    jne 2b
    say \"clocks\\n\"
3:
    pause
    test byte ptr [0x20001d], 2
    jz 3b
4:
    pause
    cmp byte ptr [0x11002], 1
    jne 4b
    say \"stopped\\n\"
    power_off
5:
    .code16
    mov ax, 0x1000
    mov ds, ax
    mov ecx, 0x4b564d01
    mov eax, 0x12001
    xor edx, edx
    wrmsr
    lock inc byte ptr [0x1000]
6:
    pause
    test byte ptr [0x201d], 2
    jz 6b
    lock inc byte ptr [0x1002]
7:
    hlt
    jmp 7b
"
);

#[test]
fn every_processor_of_a_guest_that_was_stopped_and_continued_learns_of_it() {
    need_kvm();
    let mut running = Coracle::run(&wait_for_words_of_a_stop().linux64())
        .args(&["--cpus", "2"])
        .start();
    running.wait_for("clocks\n");
    // The time that the guest misses: longer than what Coracle takes for a stop.
    running.stop_for(Duration::from_secs(2));
    let ended = running.end().with_code(0).in_silence();
    assert_eq!(ended.stdout, b"clocks\nstopped\n");
}

guest!(
    flood_and_look_at_the_clock,
    "
    mov ecx, 0x4b564d01
    mov eax, 0x200001
    xor edx, edx
    wrmsr
    # More than the pipe, what Coracle is writing and its queue hold together.
    send 0x100000, 0x30000
    mov al, [0x20001d]
    and al, 2
    add al, 0x30
    mov edx, 0x3f8
    out dx, al
    power_off
"
);

#[test]
fn a_processor_that_waited_long_for_a_reader_learns_that_it_was_stopped() {
    need_kvm();
    let (mut reader, stdout) = pipe();
    let kernel = flood_and_look_at_the_clock().linux64();
    let running = Coracle::run(&kernel).stdout(stdout.try_clone().unwrap()).start();
    wait_until_full(&stdout);
    drop(stdout);
    // The pipe takes nothing more, so the processor's thread waits for nothing but Coracle's queue.
    running.wait_until_thread_is_in("vcpu-0", libc::SYS_futex);
    // The time that the guest misses: longer than what Coracle takes for a stop.
    thread::sleep(Duration::from_millis(1500));
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    running.end().with_code(0).in_silence();
    assert_eq!(all.len(), 0x30001);
    assert_eq!(all.last(), Some(&b'2'), "the bit that says so");
}

guest!(
    say_something,
    "
    say \"afloat\"
2:
    jmp 2b
"
);

/// A console whose reader has stalled: it has no room until the machine stops.
struct Stalled {
    waits: Mutex<Sender<()>>,
    released: Mutex<bool>,
    change: Condvar,
}

impl Sink for Stalled {
    fn wait_for_room(&self) {
        let _ = self.waits.lock().unwrap().send(());
        let released = self.released.lock().unwrap();
        let _released = self.change.wait_while(released, |released| !*released).unwrap();
    }

    fn release(&self) {
        *self.released.lock().unwrap() = true;
        self.change.notify_all();
    }

    fn hold(&self) {}
    fn put(&self, _: u8) {}
    fn pause(&self) {}
}

#[test]
fn a_machine_that_is_dropped_stops_although_a_vcpu_waits_for_a_stalled_reader() {
    need_kvm();
    /// Far more than it takes.
    const PATIENCE: Duration = Duration::from_secs(60);
    let kernel = say_something().linux64();
    let config = Config {
        kernel: Some(kernel.path().into()),
        ..Config::default()
    };
    let (waits, waiting) = channel();
    let console = Arc::new(Stalled {
        waits: Mutex::new(waits),
        released: Mutex::new(false),
        change: Condvar::new(),
    });
    let opened = OpenFiles::open(&config).unwrap();
    let machine = Machine::build(&config, &opened, "", console, &Timeline::off()).unwrap();
    let running = machine.start().unwrap();
    waiting.recv_timeout(PATIENCE).expect("the vCPU prints");
    let (drops, dropped) = channel();
    thread::spawn(move || {
        drop(running);
        let _ = drops.send(());
    });
    dropped.recv_timeout(PATIENCE).expect("the vCPU is stopped");
}

guest!(
    print_on_all,
    "
    # The others begin in real mode at 0x10000. Each prints a letter of its own, again and again.
    lea rsi, [rip + 5f]
    mov edi, 0x10000
    mov ecx, 128
    rep movsb
    enable_local_apic
    mov edi, 0xfee00300
    mov dword ptr [rdi], 0xc4500
    mov dword ptr [rdi], 0xc4610
    mov dword ptr [rdi], 0xc4610
    mov dx, 0x3f8
    mov al, 0x61
3:
    out dx, al
    jmp 3b
5:
    .code16
    mov ax, 0x1000
    mov ds, ax
    mov ax, 1
    lock xadd word ptr [0x1000], ax
    add al, 0x62
    mov dx, 0x3f8
6:
    out dx, al
    jmp 6b
"
);

const LETTERS: &[u8; 4] = b"abcd";

/// A console that counts each of the letters, and that can stall.
#[derive(Default)]
struct Counted {
    counts: [AtomicU64; LETTERS.len()],
    state: Mutex<Reader>,
    change: Condvar,
}

#[derive(Default)]
struct Reader {
    stalls: bool,
    released: bool,
    /// vCPUs that wait for the reader.
    waiting: usize,
}

impl Counted {
    fn read(&self) -> Vec<u64> {
        self.counts
            .iter()
            .map(|count| count.load(Ordering::SeqCst))
            .collect()
    }

    fn stall(&self, stalls: bool) {
        self.state.lock().unwrap().stalls = stalls;
        self.change.notify_all();
    }

    fn set_released(&self, released: bool) {
        self.state.lock().unwrap().released = released;
        self.change.notify_all();
    }

    fn wait_while(&self, condition: impl Fn(&Reader) -> bool) -> MutexGuard<'_, Reader> {
        let reader = self.state.lock().unwrap();
        self.change
            .wait_while(reader, |reader| condition(reader))
            .unwrap()
    }
}

impl Sink for Counted {
    fn wait_for_room(&self) {
        self.state.lock().unwrap().waiting += 1;
        self.change.notify_all();
        self.wait_while(|reader| reader.stalls && !reader.released)
            .waiting -= 1;
    }

    fn release(&self) {
        self.set_released(true);
    }

    fn hold(&self) {
        self.set_released(false);
    }

    fn put(&self, byte: u8) {
        if let Some(index) = LETTERS.iter().position(|&letter| letter == byte) {
            self.counts[index].fetch_add(1, Ordering::SeqCst);
        }
    }

    fn pause(&self) {}
}

/// Waits until every vCPU has printed more than `before`.
fn wait_for_all(console: &Counted, before: &[u64]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while console
        .read()
        .iter()
        .zip(before)
        .any(|(now, before)| now <= before)
    {
        assert!(Instant::now() < deadline, "{:?} after {before:?}", console.read());
        thread::yield_now();
    }
}

#[test]
fn no_vcpu_runs_in_a_pause_and_all_run_after_it() {
    need_kvm();
    let kernel = print_on_all().linux64();
    let config = Config {
        kernel: Some(kernel.path().into()),
        cpus: LETTERS.len() as u8,
        ..Config::default()
    };
    let console = Arc::new(Counted::default());
    let opened = OpenFiles::open(&config).unwrap();
    let machine = Machine::build(&config, &opened, "", console.clone(), &Timeline::off()).unwrap();
    let running = machine.start().unwrap();
    wait_for_all(&console, &[0; LETTERS.len()]);
    for round in 0..30 {
        // In every third round a vCPU waits for a reader that has stopped reading.
        let stalls = round % 3 == 0;
        if stalls {
            console.stall(true);
            drop(console.wait_while(|reader| reader.waiting == 0));
        }
        // Whoever pauses need not be who started the machine.
        assert!(thread::scope(|scope| scope
            .spawn(|| running.pause())
            .join()
            .unwrap()));
        let before = console.read();
        (0..100).for_each(|_| thread::yield_now());
        assert_eq!(console.read(), before);
        console.stall(false);
        running.resume();
        wait_for_all(&console, &before);
    }
    assert!(running.pause());
    running.end(Outcome::Quit);
    assert!(!running.pause());
    let before = console.read();
    assert!(matches!(running.finish(), Outcome::Quit));
    assert_eq!(console.read(), before);
}
