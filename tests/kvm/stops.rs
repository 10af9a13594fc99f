use std::io::Read;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use coracle::config::Config;
use coracle::devices::sink::Sink;
use coracle::machine::{Machine, OpenFiles};
use coracle::timeline::Timeline;

use crate::support::pipe::{pipe, wait_until_full};
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
    let mut running = Coracle::run(&guest.linux64()).with_ignored(libc::SIGTERM).start();
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
    fn takes_input(&self) {}
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
