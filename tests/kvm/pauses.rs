use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use coracle::config::{Config, Disk};
use coracle::devices::sink::Sink;
use coracle::machine::{Machine, OpenFiles, Outcome, Running};
use coracle::timeline::Timeline;

use crate::support::need_kvm;
use crate::support::queue::{self, Queue};
use crate::virtio::disk;

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

guest!(
    read_on_and_on,
    "
    # The same request again and again. A letter says that it was answered.
    start_disk
    mov ecx, 1
2:
    mov word ptr [0x301002], cx
    mov dword ptr [rbx + 0x50], 0
3:
    cmp word ptr [0x302002], cx
    jne 3b
    mov dx, 0x3f8
    mov al, 0x61
    out dx, al
    inc ecx
    jmp 2b
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
    fn takes_input(&self) {}
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

fn start(config: &Config, console: &Arc<Counted>) -> Running {
    let opened = OpenFiles::open(config).unwrap();
    let machine = Machine::build(config, &opened, "", console.clone(), &Timeline::off()).unwrap();
    machine.start().unwrap()
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
    let running = start(&config, &console);
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
    assert!(matches!(*running.wait(), Outcome::Quit));
    assert_eq!(console.read(), before);
}

/// Pauses and resumes a guest that reads from its disk all the time, and asserts that it still reads afterwards.
fn reads_after(pauses: impl Fn(&Running)) {
    need_kvm();
    let disk = disk();
    let kernel = read_on_and_on().data(Queue::request(queue::IN, 7, &[])).linux64();
    let config = Config {
        kernel: Some(kernel.path().into()),
        disks: vec![Disk::new(disk.path().into())],
        ..Config::default()
    };
    let console = Arc::new(Counted::default());
    let running = start(&config, &console);
    for _ in 0..20 {
        wait_for_all(&console, &console.read()[..1]);
        pauses(&running);
    }
    wait_for_all(&console, &console.read()[..1]);
}

#[test]
fn a_machine_that_is_paused_twice_and_resumed_once_goes_on_with_its_disk() {
    reads_after(|running| {
        assert!(running.pause());
        assert!(running.pause());
        running.resume();
        running.resume();
    });
}

#[test]
fn threads_that_pause_and_resume_a_machine_at_the_same_time_leave_it_its_disk() {
    reads_after(|running| {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    assert!(running.pause());
                    running.resume();
                });
            }
        });
    });
}
