use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Coracle, Ended, Kernel, need_kvm};

guest!(
    greet_and_wait,
    "
    say \"afloat\\n\"
    sti
2:
    hlt
    jmp 2b
"
);

guest!(
    print_on_and_on,
    "
2:
    say \"ahoy\\n\"
    jmp 2b
"
);

guest!(
    say_two_lines_and_power_off,
    "
    say \"one\\ntwo\\n\"
    power_off
"
);

guest!(
    say_what_a_kernel_says_and_reset,
    "
    say \"[    0.1] booting\\n\"
    reset
"
);

/// A user's runtime directory, in which no guest is at first. All guests end with it.
pub struct Harbour(TempDir);

impl Harbour {
    pub fn new() -> Self {
        need_kvm();
        Self(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    /// `coracle` with these arguments, in this runtime directory.
    pub fn coracle(&self, arguments: &[&str]) -> Coracle {
        self.place(Coracle::new(arguments))
    }

    fn place(&self, coracle: Coracle) -> Coracle {
        coracle.through(&["env", &format!("XDG_RUNTIME_DIR={}", self.0.path().display())])
    }

    pub fn run(&self, kernel: &Kernel, arguments: &[&str]) -> Coracle {
        self.place(Coracle::run(kernel).args(arguments))
    }

    /// Runs a command that is to succeed without a message, and gives what it prints.
    #[track_caller]
    pub fn say(&self, arguments: &[&str]) -> String {
        let ended = self.coracle(arguments).end().with_code(0).in_silence();
        String::from_utf8(ended.stdout).expect("it prints text")
    }

    #[track_caller]
    pub fn refuse(&self, arguments: &[&str], words: &[&str]) -> Ended {
        self.coracle(arguments).end().with_code(125).saying(words)
    }

    pub fn guests(&self) -> PathBuf {
        self.0.path().join("coracle")
    }

    /// What is in the directory of guests.
    pub fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.guests());
        let mut names: Vec<_> = entries
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Harbour {
    fn drop(&mut self) {
        let names = self.coracle(&["ps", "-q"]).end().stdout;
        for name in String::from_utf8_lossy(&names).lines() {
            self.coracle(&["kill", name]).end();
        }
    }
}

#[test]
fn a_detached_guest_is_listed_logged_waited_for_and_removed() {
    let harbour = Harbour::new();
    let kernel = greet_and_wait().linux64();
    let started = harbour
        .run(&kernel, &["-d", "--name", "web"])
        .end()
        .with_code(0)
        .in_silence();
    assert_eq!(started.stdout, b"web\n");
    let listed = harbour.say(&["ps"]);
    assert!(
        listed.starts_with("NAME ") && listed.contains("\nweb ") && listed.contains("Up "),
        "{listed}"
    );
    assert_eq!(harbour.say(&["logs", "web"]), "afloat\n");
    let taken = "the name 'web' is taken by a guest that runs";
    harbour
        .run(&kernel, &["--name", "web"])
        .end()
        .with_code(125)
        .saying(&[taken]);
    harbour.refuse(&["rm", "web"], &["guest 'web' runs", "rm -f"]);

    let waiting = harbour.coracle(&["wait", "web"]).start();
    assert_eq!(harbour.say(&["kill", "web"]), "web\n");
    let waited = waiting.end().with_code(0).saying(&["was killed"]);
    assert_eq!(waited.stdout, b"137\n");

    assert_eq!(harbour.say(&["ps", "-q"]), "");
    assert!(harbour.say(&["ps", "-a"]).contains("Killed"));
    assert_eq!(harbour.say(&["logs", "web"]), "afloat\n");
    harbour.refuse(&["kill", "web"], &["guest 'web' does not run"]);
    let taken = "the name 'web' is taken by a guest that has ended (coracle rm web";
    harbour
        .run(&kernel, &["-d", "--name", "web"])
        .end()
        .with_code(125)
        .saying(&[taken]);
    assert_eq!(harbour.say(&["rm", "web"]), "web\n");
    assert_eq!(harbour.entries(), [""; 0]);
    harbour.refuse(&["rm", "web"], &["there is no guest 'web'"]);
}

#[test]
fn a_guest_in_the_foreground_can_have_a_name_and_leaves_its_exit_code_and_log() {
    let harbour = Harbour::new();
    let kernel = say_two_lines_and_power_off().linux64();
    let run = harbour
        .run(&kernel, &["--name", "brief"])
        .end()
        .with_code(0)
        .in_silence();
    assert_eq!(run.stdout, b"one\ntwo\n");
    assert_eq!(harbour.say(&["wait", "brief"]), "0\n");
    assert_eq!(harbour.say(&["logs", "--tail", "1", "-f", "brief"]), "two\n");
    let json = harbour.say(&["ps", "-a", "--json"]);
    let guests: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(guests[0]["name"], "brief");
    assert_eq!(guests[0]["status"], "exited");
    assert_eq!(guests[0]["exit_code"], 0);
    assert_eq!(guests[0]["kernel"], kernel.path().to_str().unwrap());
}

#[test]
fn with_rm_nothing_is_left_and_the_name_is_free() {
    let harbour = Harbour::new();
    let kernel = say_two_lines_and_power_off().linux64();
    for _ in 0..2 {
        let run = harbour.run(&kernel, &["--rm", "--name", "brief"]);
        run.end().with_code(0).in_silence();
    }
    assert_eq!(harbour.say(&["ps", "-aq"]), "");
    assert_eq!(harbour.entries(), [""; 0]);
}

#[test]
fn a_detached_guest_that_does_not_start_says_why_as_one_in_the_foreground() {
    let harbour = Harbour::new();
    let missing = ["run", "-d", "--name", "web", "--kernel", "/nowhere/vmlinuz"];
    let ended = harbour.coracle(&missing).end().with_code(127);
    ended.saying(&["/nowhere/vmlinuz"]);
    // No guest ran, so nothing is left of it.
    assert_eq!(harbour.entries(), [""; 0]);

    let no_kernel = Kernel::new(b"no kernel at all");
    harbour
        .run(&no_kernel, &["-d", "--name", "web"])
        .end()
        .with_code(125)
        .saying(&["kernel"]);
    assert_eq!(harbour.say(&["ps", "-aq"]), "");
    assert_eq!(harbour.entries(), [""; 0]);

    let rebooting = say_what_a_kernel_says_and_reset().linux64();
    let ended = harbour
        .run(&rebooting, &["-d", "--name", "web"])
        .end()
        .with_code(100);
    assert_eq!(ended.stdout, b"");
    ended.saying(&["the guest rebooted"]);
    // This one ran.
    assert!(harbour.say(&["ps", "-a"]).contains("Exited (100)"));
    assert_eq!(harbour.say(&["wait", "web"]), "100\n");
}

#[test]
fn a_guest_without_a_name_in_the_background_gets_two_words() {
    let harbour = Harbour::new();
    let kernel = greet_and_wait().linux64();
    let names: Vec<_> = (0..3)
        .map(|_| {
            let started = harbour.run(&kernel, &["-d"]).end().with_code(0).in_silence();
            String::from_utf8(started.stdout).unwrap()
        })
        .collect();
    assert!(
        names.iter().all(|name| name.trim_end().split('-').count() >= 2),
        "{names:?}"
    );
    let listed = harbour.say(&["ps", "-q"]);
    assert!(
        names.iter().all(|name| listed.contains(name)),
        "{listed}, {names:?}"
    );
    let removed: Vec<&str> = names.iter().map(|name| name.trim_end()).collect();
    harbour.say(&[&["rm", "-f"], &removed[..]].concat());
    assert_eq!(harbour.entries(), [""; 0]);
}

#[test]
fn a_guest_that_is_paused_stands_still_until_it_is_resumed() {
    let harbour = Harbour::new();
    let kernel = print_on_and_on().linux64();
    harbour
        .run(&kernel, &["-d", "--name", "web"])
        .end()
        .with_code(0)
        .in_silence();
    let mut following = harbour.coracle(&["logs", "-f", "--tail", "0", "web"]).start();
    following.wait_for("ahoy\n");
    assert_eq!(harbour.say(&["pause", "web"]), "web\n");
    assert!(harbour.say(&["ps"]).contains("(Paused)"));
    let inspected: serde_json::Value = serde_json::from_str(&harbour.say(&["inspect", "web"])).unwrap();
    assert_eq!(inspected[0]["status"], "paused");
    let process = inspected[0]["process"].as_i64().unwrap();
    for thread in ["vcpu-0", "log"] {
        wait_for_thread(process, thread, |call| {
            call.starts_with(&format!("{} ", libc::SYS_futex))
        });
    }
    let log = harbour.guests().join("web/console.log");
    let length = || fs::metadata(&log).unwrap().len();
    let before = length();
    harbour.say(&["ps"]);
    assert_eq!(length(), before);
    assert_eq!(harbour.say(&["unpause", "web"]), "web\n");
    assert!(!harbour.say(&["ps"]).contains("(Paused)"));
    while length() == before {
        thread::yield_now();
    }
    // A guest that is paused can be ended as well.
    harbour.say(&["pause", "web"]);
    harbour.say(&["kill", "-s", "TERM", "web"]);
    following.end().with_code(0);
    assert_eq!(harbour.say(&["wait", "web"]), "143\n");
    harbour.refuse(&["pause", "web"], &["guest 'web' does not run"]);
}

#[test]
fn what_a_guest_uses_is_shown() {
    let harbour = Harbour::new();
    let kernel = print_on_and_on().linux64();
    harbour
        .run(&kernel, &["-d", "--name", "busy", "--cpus", "2"])
        .end()
        .with_code(0);
    let inspected: serde_json::Value = serde_json::from_str(&harbour.say(&["inspect", "busy"])).unwrap();
    let process = inspected[0]["process"].as_i64().unwrap();
    // The first vCPU may print before the second one has its thread.
    wait_for_thread(process, "vcpu-1", |_| true);
    let shown = harbour.say(&["stats", "--no-stream"]);
    let row = shown.lines().nth(1).expect("there is a guest");
    let row: Vec<_> = row
        .split("   ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect();
    let [name, cpu, vcpus, exits, disks, sockets, memory, overhead] = row[..] else {
        panic!("{shown}")
    };
    let (busy, idle) = vcpus.split_once(' ').expect("there are two vCPUs");
    let memory = memory
        .strip_suffix(" / 128 MiB")
        .expect("that is what it may have");
    let percent = |cell: &str| {
        cell.strip_suffix('%')
            .and_then(|number| number.parse::<u32>().ok())
    };
    assert_eq!(name, "busy");
    // The second vCPU is never started.
    assert!(
        percent(cpu) >= percent(busy) && percent(busy) > Some(0) && percent(idle) == Some(0),
        "{shown}"
    );
    // Each byte that it prints is an exit.
    let exits = exits.split_once("/s").expect("exits a second");
    assert!(exits.0.parse::<u32>().is_ok_and(|exits| exits > 0), "{shown}");
    assert_eq!([disks, sockets], ["0.0 / 0.0 MB/s"; 2]);
    for size in [memory, overhead] {
        let kibibytes = size.strip_suffix(" KiB").and_then(|size| size.parse().ok());
        assert!(
            kibibytes.is_some_and(|size: u32| (1..10 << 10).contains(&size)),
            "{shown}"
        );
    }
}

#[test]
fn a_guest_that_does_not_heed_its_power_button_is_ended_after_the_time_that_it_was_given() {
    let harbour = Harbour::new();
    let kernel = print_on_and_on().linux64();
    harbour.run(&kernel, &["-d", "--name", "web"]).end().with_code(0);
    harbour.say(&["pause", "web"]);
    let stopped = harbour.coracle(&["stop", "-t", "1", "web"]).end().with_code(0);
    assert_eq!(stopped.stdout, b"web\n");
    stopped.saying(&["guest 'web' was ended: it did not power off within 1 s"]);
    assert_eq!(harbour.say(&["wait", "web"]), "143\n");
    assert_eq!(harbour.say(&["stop", "web"]), "web\n");
}

guest!(
    power_off_when_the_button_is_pressed,
    "
    catch_interrupts 4f
    enable_local_apic
    route 3, 0x33
    say \"afloat\\n\"
2:
    sti
    hlt
    jmp 2b
4:
    pop rax
    cmp al, 0x33
    jne 2b
    power_off
"
);

#[test]
fn the_power_button_is_an_interrupt_that_a_guest_can_power_off_by() {
    let harbour = Harbour::new();
    let kernel = power_off_when_the_button_is_pressed().linux64();
    harbour
        .run(&kernel, &["-d", "--name", "web"])
        .end()
        .with_code(0)
        .in_silence();
    assert_eq!(harbour.say(&["stop", "-t", "60", "web"]), "web\n");
    assert_eq!(harbour.say(&["wait", "web"]), "0\n");
}

#[test]
fn a_guest_is_renamed_while_it_runs_and_after_its_end() {
    let harbour = Harbour::new();
    let kernel = greet_and_wait().linux64();
    for name in ["web", "other"] {
        harbour.run(&kernel, &["-d", "--name", name]).end().with_code(0);
    }
    harbour.say(&["rename", "web", "first"]);
    harbour.refuse(
        &["rename", "first", "other"],
        &["the name 'other' is taken by a guest that runs"],
    );
    harbour.refuse(&["rename", "web", "third"], &["there is no guest 'web'"]);
    assert_eq!(harbour.say(&["ps", "-q"]), "first\nother\n");
    harbour.say(&["kill", "first"]);
    harbour.say(&["rename", "first", "second"]);
    harbour.refuse(
        &["rename", "other", "second"],
        &["the name 'second' is taken by a guest that has ended"],
    );
    assert_eq!(harbour.say(&["logs", "second"]), "afloat\n");
    assert_eq!(harbour.say(&["prune"]), "second\n");
    assert_eq!(harbour.entries(), ["other"]);
}

/// Waits until the process has a thread of this name that `is` as it should be, by its line in `syscall` (proc(5)).
fn wait_for_thread(process: i64, name: &str, is: impl Fn(&str) -> bool) {
    let fits = |task: fs::DirEntry| {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        read("comm").trim() == name && is(&read("syscall"))
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    // No event tells of this, so it polls.
    while !fs::read_dir(format!("/proc/{process}/task"))
        .unwrap()
        .flatten()
        .any(fits)
    {
        assert!(Instant::now() < deadline, "{name} is not as it should be");
        thread::yield_now();
    }
}
