use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::named::Harbour;
use crate::support::screen::{shown_in_all, unread};
use crate::support::terminal::Terminal;

guest!(
    greet_and_float,
    "
    say \"afloat\\n\"
    sti
2:
    hlt
    jmp 2b
"
);

#[test]
fn a_follower_of_a_log_gets_what_is_printed_until_the_end() {
    let harbour = Harbour::new();
    let kernel = greet_and_float().linux64();
    harbour.run(&kernel, &["-d", "--name", "web"]).end().with_code(0);
    let mut following = harbour.coracle(&["logs", "-f", "web"]).start();
    following.wait_for("afloat\n");
    harbour.say(&["kill", "-s", "TERM", "web"]);
    following.end().with_code(0).in_silence();
    // Ended in order, so its end was written down.
    assert_eq!(harbour.say(&["wait", "web"]), "143\n");
}

guest!(
    read_parts_of_a_register_and_power_off,
    "
    mov ebx, 0xd0000000
    mov ecx, 5000
2:
    mov al, [rbx]
    dec ecx
    jnz 2b
    say \"afloat\\n\"
    power_off
"
);

#[test]
fn coracles_own_messages_in_a_file_have_an_end_however_many_a_person_asked_for() {
    let harbour = Harbour::new();
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let kernel = read_parts_of_a_register_and_power_off().linux64();
    let options = [
        "-d",
        "--name",
        "web",
        "-v",
        "-v",
        "--disk",
        disk.path().to_str().unwrap(),
    ];
    harbour.run(&kernel, &options).end().with_code(0);
    assert_eq!(harbour.say(&["wait", "web"]), "0\n");
    let messages = fs::read_to_string(harbour.guests().join("web/coracle.log")).unwrap();
    let reads = messages
        .lines()
        .filter(|line| line.contains("read part of the register"));
    let reads = reads.count();
    assert!((3000..4096).contains(&reads), "{reads}");
    assert!(messages.contains("further lines are left out"));
}

guest!(
    greet_and_repeat,
    "
    say \"afloat\\n\"
    request_to_send
    xor ebx, ebx
    echo_input
"
);

#[test]
fn a_log_knows_when_its_lines_were_printed() {
    let harbour = Harbour::new();
    let kernel = greet_and_repeat().linux64();
    harbour.run(&kernel, &["-d", "--name", "web"]).end().with_code(0);
    // Times are known to the second.
    thread::sleep(Duration::from_millis(1100));
    let mark = now();
    let attached = harbour.coracle(&["attach", "web"]).input(*b"later\n").start();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !harbour.say(&["logs", "web"]).ends_with("later\n") {
        assert!(Instant::now() < deadline, "nothing was printed");
    }
    drop(attached);
    assert_eq!(
        harbour.say(&["logs", "--since", &mark.to_string(), "web"]),
        "later\n"
    );
    assert_eq!(harbour.say(&["logs", "--since", "1h", "web"]), "afloat\nlater\n");
    assert_eq!(
        harbour.say(&["logs", "--since", "1h", "--tail", "1", "web"]),
        "later\n"
    );
    assert_eq!(
        harbour.say(&["logs", "--since", &(mark + 3600.0).to_string(), "web"]),
        ""
    );
    let stamped = harbour.say(&["logs", "-t", "web"]);
    let lines: Vec<_> = stamped.lines().map(|line| line.split_at(21)).collect();
    let [(first, "afloat"), (second, "later")] = lines[..] else {
        panic!("{stamped:?}");
    };
    assert!(
        first < second && first.ends_with("Z ") && first.starts_with("20"),
        "{stamped:?}"
    );
}

guest!(
    draw_ask_and_power_off,
    "
    say \"\\033[?1049h\\033[6n\\033[1mchanged\\n\"
    power_off
"
);

#[test]
fn a_terminal_gets_the_text_and_colours_of_a_log_and_a_pipe_every_byte() {
    let harbour = Harbour::new();
    let kernel = draw_ask_and_power_off().linux64();
    harbour.run(&kernel, &["--name", "web"]).end().with_code(0);
    let terminal = Terminal::open(24, 80);
    let shown = harbour.coracle(&["logs", "web"]).on_terminal(&terminal);
    shown.start().end_unread().with_code(0).in_silence();
    assert_eq!(shown_in_all(&terminal), "\x1b[1mchanged\x1b[m\r\n");
    assert_eq!(unread(&terminal), 0);
    assert_eq!(
        harbour.say(&["logs", "web"]),
        "\x1b[?1049h\x1b[6n\x1b[1mchanged\n"
    );
}

/// Seconds since 1970.
fn now() -> f64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}
