use serde_json::Value;

use crate::support::{Coracle, Ended, Guest, Kernel, need_kvm};

/// What the guests here print.
const OUTPUT: &str = "a kernel's line\nCoracle guest: one that is tested\nhello\n";

// The byte that it reads from the boot clock comes first on the console.
guest!(
    marking,
    "
    mov edx, 0x5f0
    in al, dx
    mov edx, 0x3f8
    out dx, al
    mov edx, 0x5f0
    mov al, 1
    out dx, al
    mov al, 2
    out dx, al
    mov al, 200
    out dx, al
    mov ecx, [0x300000]
    mov esi, 0x300004
    mov edx, 0x3f8
2:
    lodsb
    out dx, al
    dec ecx
    jnz 2b
    power_off
"
);

fn printing(guest: Guest) -> Guest {
    let length = (OUTPUT.len() as u32).to_le_bytes();
    guest.data([&length, OUTPUT.as_bytes()].concat())
}

/// Runs with `--timings=FILE`, and gives what is in the file afterwards.
fn run_into(name: &str, coracle: Coracle, code: u8) -> (Ended, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let ended = coracle
        .args(&[&format!("--timings={}", path.display())])
        .end()
        .with_code(code);
    (ended, std::fs::read_to_string(path).unwrap())
}

fn json(coracle: Coracle, code: u8) -> Value {
    serde_json::from_str(&run_into("boot.json", coracle, code).1).expect("JSON")
}

fn names(json: &Value) -> Vec<&str> {
    let phases = json["phases"].as_array().unwrap();
    phases.iter().map(|row| row["phase"].as_str().unwrap()).collect()
}

/// Exits of this reason at this address.
fn exits<'a>(json: &'a Value, reason: &str, address: Option<&str>) -> &'a Value {
    let all = json["exits"]["by_reason"].as_array().unwrap();
    let found = all
        .iter()
        .find(|exits| exits["reason"] == reason && exits["address"].as_str() == address);
    found.unwrap_or(&Value::Null)
}

#[test]
fn every_phase_of_a_run_and_every_mark_of_the_guest_is_noted_once_and_in_order() {
    need_kvm();
    let json = json(Coracle::run(&printing(marking()).linux64()), 0);
    let names = names(&json);
    let (ours, guests) = names.split_at(names.len() - 7);
    assert_eq!(
        guests,
        [
            "guest_mark_1",
            "guest_mark_2",
            "guest_mark_200",
            "console_line",
            "init_line",
            "workload_output",
            "end"
        ]
    );
    assert_eq!(
        ours[..4],
        ["process_start", "arguments", "kvm_opened", "memory_mapped"]
    );
    // The order of two threads.
    let mut beside = ours[4..ours.len() - 3].to_vec();
    beside.sort_unstable();
    assert_eq!(
        beside,
        [
            "boot_tables",
            "interrupt_controllers",
            "kernel_loaded",
            "memory_registered",
            "processor_known",
            "vcpus_created",
            "vcpus_set_up",
            "vm_created"
        ]
    );
    assert_eq!(
        ours[ours.len() - 3..],
        ["devices", "console_ready", "first_guest_instruction"]
    );
    let mut before = 0.0;
    for row in json["phases"].as_array().unwrap() {
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(number("ended_ms") >= before, "{row}");
        assert!(number("began_ms") <= number("ended_ms"), "{row}");
        before = number("ended_ms");
    }
}

#[test]
fn exits_are_counted_by_reason_and_address_and_by_phase() {
    need_kvm();
    let json = json(Coracle::run(&printing(marking()).linux64()), 0);
    // The byte that was read came first.
    let bytes = OUTPUT.len() as u64 + 1;
    for (reason, address, device, count) in [
        ("port write", "0x3f8", "serial port", bytes),
        ("port write", "0x5f0", "boot clock", 3),
        ("port read", "0x5f0", "boot clock", 1),
        ("port write", "0x600", "sleep registers", 1),
    ] {
        let exits = exits(&json, reason, Some(address));
        assert_eq!(exits["count"], count, "{reason} {address}: {json:#}");
        assert_eq!(exits["device"], device);
        assert!(exits["took_ms"].as_f64().unwrap() > 0.0, "{exits}");
    }
    assert_eq!(json["exits"]["count"], bytes + 5);
    assert_eq!(json["console"]["bytes"], bytes);
    assert_eq!(json["console"]["exits"], bytes);
    let of = |name: &str| {
        let at = names(&json).iter().position(|phase| *phase == name).unwrap();
        json["phases"][at]["exits"].as_u64().unwrap()
    };
    assert_eq!(of("first_guest_instruction"), 0);
    // One reads the clock, one prints, one is the mark.
    assert_eq!(of("guest_mark_1"), 3);
    assert_eq!(of("guest_mark_2"), 1);
    assert_eq!(of("console_line"), 16);
    assert_eq!(of("end"), "ello\n".len() as u64 + 1);
}

#[test]
fn the_boot_clock_is_there_only_when_somebody_is_timed() {
    need_kvm();
    let kernel = printing(marking()).linux64();
    let off = Coracle::run(&kernel).end().with_code(0).in_silence();
    let (on, _) = run_into("boot.json", Coracle::run(&kernel), 0);
    let expected = [b"\xff", OUTPUT.as_bytes()].concat();
    assert_eq!(off.stdout, expected);
    assert_eq!(on.in_silence().stdout, expected);
}

#[test]
fn without_a_file_there_is_a_table_on_stderr_and_the_next_argument_is_its_own() {
    need_kvm();
    let ended = Coracle::run(&printing(marking()).linux64())
        .args(&["--timings", "--cpus", "2"])
        .end()
        .with_code(0)
        .saying(&[
            "vCPU 0 enters the guest",
            "kernel knows its command line",
            "guest's mark 200",
            "end of the run",
            "serial port",
            "all exits",
            &format!("console: {} bytes written", OUTPUT.len() + 1),
        ]);
    assert!(ended.stdout.ends_with(OUTPUT.as_bytes()), "{}", ended.describe());
}

#[test]
fn a_picture_has_the_phases() {
    need_kvm();
    let (_, picture) = run_into("boot.svg", Coracle::run(&printing(marking()).linux64()), 0);
    assert!(picture.starts_with("<svg "), "{picture}");
    for words in [
        "VM created",
        "kernel and initrd in guest memory",
        "guest&apos;s mark 200",
        "The whole boot",
    ] {
        let plain = words.replace("&apos;", "'");
        assert!(
            picture.contains(words) || picture.contains(&plain),
            "{words}: {picture}"
        );
    }
}

guest!(
    storm,
    "
    mov edx, 0x5f0
    mov ecx, 1000
2:
    mov al, cl
    out dx, al
    dec ecx
    jnz 2b
    mov ebx, 0xd0000000
    mov ecx, 600
3:
    mov eax, [rbx]
    add ebx, 4
    dec ecx
    jnz 3b
    power_off
"
);

#[test]
fn a_guest_that_marks_and_exits_without_end_is_counted_but_not_kept() {
    need_kvm();
    let json = json(Coracle::run(&storm().linux64()), 0);
    let marks = names(&json)
        .iter()
        .filter(|name| name.starts_with("guest_mark_"))
        .count();
    assert_eq!(marks, 64);
    assert_eq!(json["guest_marks_lost"], 1000 - 64);
    assert_eq!(json["exits"]["count"], 1601);
    assert_eq!(json["exits"]["by_reason"].as_array().unwrap().len(), 257);
    // 255 addresses beside the port, and then the power-off too.
    assert_eq!(exits(&json, "others", None)["count"], 600 - 255 + 1);
}

guest!(
    fault_at_once,
    "
    lidt [rip + 2f]
    ud2
2:
    .word 0
    .quad 0
"
);

#[test]
fn a_run_that_ends_badly_has_its_figures_too() {
    need_kvm();
    let json = json(Coracle::run(&fault_at_once().linux64()), 110);
    assert_eq!(names(&json).last(), Some(&"end"));
    assert_eq!(exits(&json, "fatal", None)["count"], 1);
}

guest!(
    reset_when_timed,
    "
    say \"boot.\"
    reset
"
);

#[test]
fn of_a_guest_that_boots_again_the_first_boot_is_timed() {
    need_kvm();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("boot.json");
    let mut running = Coracle::run(&reset_when_timed().linux64())
        .args(&["--on-reboot", "restart", &format!("--timings={}", path.display())])
        .start();
    running.wait_for("boot.boot.boot.");
    running.signal(libc::SIGTERM);
    running.end().with_code(143);
    let json: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(json["console"]["bytes"], 5);
    assert_eq!(names(&json).last(), Some(&"end"));
}

#[test]
fn a_machine_that_cannot_be_built_has_the_phases_until_then() {
    need_kvm();
    let missing = json(Coracle::new(&["run", "--kernel", "/no/such/kernel"]), 127);
    assert!(!names(&missing).contains(&"kvm_opened"), "{missing}");
    let no_kernel = json(Coracle::run(&Kernel::new(&[0x5a; 4096])), 125);
    let names = names(&no_kernel);
    assert!(names.contains(&"kvm_opened"), "{names:?}");
    assert!(!names.contains(&"kernel_loaded"), "{names:?}");
}

#[test]
fn a_file_that_cannot_be_made_is_an_error_before_the_guest_runs() {
    let ended = Coracle::run(&printing(marking()).linux64())
        .args(&["--timings=/no/such/folder/boot.json"])
        .end()
        .with_code(125)
        .saying(&["cannot write the timings to /no/such/folder/boot.json: No such file"]);
    assert!(ended.stdout.is_empty());
}

#[test]
fn a_name_that_says_no_format_is_an_error_that_says_which_there_are() {
    Coracle::new(&["run", "--timings=boot.txt"])
        .end()
        .with_code(125)
        .saying(&["boot.txt", ".json", ".svg"]);
}
