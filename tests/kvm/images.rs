//! These need no KVM, but docker-registry and skopeo.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::registry::{Registry, stalling};
use crate::support::terminal::Terminal;
use crate::support::{Coracle, Ended, Home, Random, Running};
use serde_json::Value;

/// A registry with an image, and the image's whole name and ID.
fn registry_with(registry: Registry, text: &str) -> (Registry, String, String) {
    let maker = Home::new();
    let id = maker.import("tool:1", text);
    let layout = format!("{}:tool:1", maker.store().display());
    let name = registry.push(&layout, "team/tool:1");
    (registry, name, id)
}

#[test]
fn a_pull_prints_the_name_and_what_is_here_is_not_got_again() {
    let (_registry, name, id) = registry_with(Registry::start(), "hello");
    let home = Home::new();
    let pulled = home.end(&["pull", &name]).with_code(0);
    assert_eq!(
        String::from_utf8(pulled.stdout.clone()).unwrap(),
        format!("{name}\n")
    );
    let pulled = pulled.saying(&[
        "Pulling from team/tool\n",
        ": Pull complete\n",
        "Digest: sha256:",
        "Downloaded newer",
    ]);
    assert!(!pulled.stderr.contains('\x1b'), "{}", pulled.stderr);
    home.end(&["pull", &name])
        .with_code(0)
        .saying(&["Image is up to date for "]);
    let quiet = home.end(&["pull", "-q", &name]).with_code(0).in_silence();
    assert_eq!(quiet.stdout, format!("{name}\n").as_bytes());
    assert_eq!(home.say(&["images", "-q", "--no-trunc"]), format!("{id}\n"));
    home.verify();
}

#[test]
fn on_a_terminal_a_pull_has_a_bar_for_each_layer_and_it_ends_whole() {
    let (_registry, name, _) = registry_with(Registry::start(), "hello");
    let home = Home::new();
    let mut terminal = Terminal::open(24, 100);
    let stderr = terminal.program.try_clone().unwrap();
    home.coracle(&["pull", &name]).stderr(stderr).end().with_code(0);
    drop(terminal.program);
    let mut shown = Vec::new();
    // The terminal hangs up when nobody has it open.
    let _ = terminal.person.read_to_end(&mut shown);
    let shown = String::from_utf8_lossy(&shown);
    assert!(
        shown.contains(": Pull complete") && shown.contains("\x1b["),
        "{shown}"
    );
    assert!(
        shown.trim_end().ends_with(&format!("image for {name}")),
        "{shown}"
    );
}

#[test]
fn an_image_that_is_missing_is_127_and_says_what_gets_it() {
    let (_registry, name, _) = registry_with(Registry::start(), "hello");
    let home = Home::new();
    for arguments in [
        &["rmi", "tool"][..],
        &["tag", "tool", "other"],
        &["save", "tool"],
        &["history", "tool"],
        &["inspect", "--type", "image", "tool"],
    ] {
        for home in [&home, &{
            let with_another = Home::new();
            with_another.import("other", "x");
            with_another
        }] {
            home.end(arguments)
                .with_code(127)
                .saying(&["no image 'tool'", "coracle pull tool"]);
        }
    }
    home.end(&["inspect", "tool"])
        .with_code(125)
        .saying(&["no guest 'tool'", "coracle pull tool"]);
    let unknown = name.replace(":1", ":2");
    home.end(&["pull", &unknown])
        .with_code(127)
        .saying(&["check the name"]);
    let other = home
        .end(&["pull", "--platform", "linux/arm64", &name])
        .with_code(125);
    other.saying(&["linux/amd64", "linux/arm64"]);
    home.end(&["load", "-i", "/no/file"])
        .with_code(127)
        .saying(&["/no/file"]);
    home.end(&["import", "/no/file"])
        .with_code(127)
        .saying(&["/no/file"]);
    assert!(home.names().is_empty());
}

#[test]
fn an_image_has_names_until_the_last_one_is_removed() {
    let home = Home::new();
    let id = home.import("tool:1", "hello");
    assert_eq!(home.say(&["tag", "tool:1", "localhost:5000/base"]), "");
    assert_eq!(home.say(&["tag", &id[7..19], "spare"]), "");
    assert_eq!(
        home.names(),
        ["localhost:5000/base:latest", "spare:latest", "tool:1"]
    );
    let table = home.say(&["images", "tool"]);
    let cells: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(cells[..3], ["tool", "1", &id[7..19]], "{table}");
    home.end(&["rmi", &id])
        .with_code(125)
        .saying(&["more than one name", "--force"]);
    assert_eq!(home.say(&["rmi", "spare"]), "Untagged: spare:latest\n");
    let gone = home.say(&["rmi", "-f", &id]);
    assert!(
        gone.contains("Untagged: tool:1\n") && gone.ends_with(&format!("Deleted: {id}\n")),
        "{gone}"
    );
    assert_eq!(home.say(&["images", "-q"]), "");
    home.end(&["rmi", "-f", "tool:1"])
        .with_code(0)
        .saying(&["no image"]);
    let places = ["blobs", "layers"].map(|place| home.store().join(place).join("sha256"));
    let left: usize = places
        .iter()
        .map(|place| fs::read_dir(place).unwrap().count())
        .sum();
    assert_eq!(left, 0, "files of the image are left");
}

#[test]
fn inspect_and_history_tell_what_docker_would() {
    let home = Home::new();
    let id = home.import("tool:1", "hello");
    let known: Value = serde_json::from_str(&home.say(&["inspect", "tool:1"])).unwrap();
    let image = &known[0];
    assert_eq!(image["Id"], *id);
    assert_eq!(image["RepoTags"], serde_json::json!(["tool:1"]));
    assert_eq!(
        (&image["Os"], &image["Architecture"]),
        (&"linux".into(), &"amd64".into())
    );
    assert_eq!(image["Config"]["Cmd"], serde_json::json!(["/bin/true"]));
    let layer = image["RootFS"]["Files"][0].as_str().unwrap();
    assert_eq!(
        fs::metadata(layer).unwrap().len(),
        image["Size"].as_u64().unwrap()
    );
    let history = home.say(&["history", "tool:1"]);
    let lines: Vec<_> = history.lines().collect();
    assert!(
        lines[0].starts_with("IMAGE ") && lines[1].starts_with(&id[7..19]),
        "{history}"
    );
    assert!(lines[1].contains("Imported from"), "{history}");
    let listed: Value = serde_json::from_str(&home.say(&["images", "--json"])).unwrap();
    assert_eq!(listed[0]["name"], "tool:1");
    assert_eq!(listed[0]["size"], image["Size"]);
}

#[test]
fn what_is_saved_is_loaded_from_a_file_a_pipe_and_by_other_programs() {
    let home = Home::new();
    let id = home.import("tool:1", "hello");
    let archive = home.path("tool.tar");
    let path = archive.to_str().unwrap();
    assert_eq!(home.say(&["save", "-o", path, "tool:1"]), "");
    let piped = home.end(&["save", "tool:1"]).with_code(0).in_silence().stdout;
    assert!(piped == fs::read(&archive).unwrap(), "both archives are the same");
    for load in [
        &|other: &Home| other.end(&["load", "-i", path]) as Ended,
        &|other: &Home| other.coracle(&["load"]).stdin(File::open(path).unwrap()).end(),
        &|other: &Home| other.coracle(&["load"]).input(piped.clone()).end(),
    ] as [&dyn Fn(&Home) -> Ended; 3]
    {
        let other = Home::new();
        assert_eq!(
            load(&other).with_code(0).in_silence().stdout,
            b"Loaded image: tool:1\n"
        );
        assert_eq!(other.say(&["images", "-q", "--no-trunc"]), format!("{id}\n"));
        other.verify();
    }
    // In the form that Docker had before there was OCI.
    let docker = home.path("docker.tar");
    let copied = Command::new("skopeo")
        .args(["copy", "--insecure-policy", &format!("oci-archive:{path}:1")])
        .arg(format!("docker-archive:{}:tool:docker", docker.display()))
        .output()
        .expect("skopeo is there; install it");
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    assert_eq!(
        home.say(&["load", "-q", "-i", docker.to_str().unwrap()]),
        "tool:docker\n"
    );
}

#[test]
fn an_archive_neither_goes_to_a_terminal_nor_comes_from_one() {
    let home = Home::new();
    home.import("tool:1", "hello");
    let terminal = Terminal::open(24, 80);
    for arguments in [&["save", "tool:1"][..], &["load"], &["import", "-"]] {
        home.coracle(arguments)
            .on_terminal(&terminal)
            .end()
            .with_code(125)
            .saying(&["is a terminal"]);
    }
}

#[test]
fn an_archive_that_cannot_be_written_leaves_what_was_there() {
    let home = Home::new();
    home.import("tool:1", &"hello".repeat(10_000));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ended = home.coracle(&["save", "tool:1"]).stdout(full).end();
    ended
        .with_code(125)
        .saying(&["cannot write the archive", "free some space"]);
    let old = home.path("old.tar");
    fs::write(&old, "old").unwrap();
    home.end(&["save", "-o", old.to_str().unwrap(), "none"])
        .with_code(127);
    assert_eq!(fs::read(&old).unwrap(), b"old");
    let beside: Vec<_> = fs::read_dir(home.path(".")).unwrap().flatten().collect();
    assert!(
        beside
            .iter()
            .all(|entry| !entry.file_name().to_string_lossy().ends_with(".part"))
    );
    home.end(&["save", "-o", "/no/place/x.tar", "tool:1"])
        .with_code(125)
        .saying(&["/no/place/x.tar"]);
}

#[test]
fn a_registry_with_a_password_is_pulled_from_after_a_login() {
    let (registry, name, _) = registry_with(Registry::with_password(), "hello");
    let home = Home::new();
    let host = &*registry.host;
    let login = format!("coracle login {host}");
    home.end(&["pull", &name])
        .with_code(125)
        .saying(&["refuses access", &login]);
    let wrong = home
        .coracle(&["login", "-u", "me", "--password-stdin", host])
        .input("no\n")
        .end();
    wrong
        .with_code(125)
        .saying(&["does not take this name and password"]);
    home.end(&["login", host])
        .with_code(125)
        .saying(&["stdin is no terminal", "--password-stdin"]);
    let login = home
        .coracle(&["login", "-u", "me", "--password-stdin", host])
        .input("secret\n")
        .end();
    assert_eq!(login.with_code(0).stdout, b"Login Succeeded\n");
    home.say(&["pull", &name]);
    assert!(home.say(&["logout", host]).starts_with("Removing"));
    assert!(home.say(&["logout", host]).starts_with("Not logged in"));
    home.end(&["pull", &name]).with_code(125);
}

#[test]
fn a_password_that_is_typed_is_not_shown_and_the_terminal_is_as_before() {
    let (registry, name, _) = registry_with(Registry::with_password(), "hello");
    let home = Home::new();
    for is_interrupted in [true, false] {
        let mut terminal = Terminal::open(24, 80);
        let before = terminal.modes();
        let stderr = terminal.program.try_clone().unwrap();
        let running = home
            .coracle(&["login", "-u", "me", &registry.host])
            .on_terminal(&terminal)
            .stderr(stderr)
            .start();
        let mut shown = Vec::new();
        while !String::from_utf8_lossy(&shown).contains("Password: ") {
            let mut buffer = [0; 256];
            let count = terminal.person.read(&mut buffer).unwrap();
            shown.extend_from_slice(&buffer[..count]);
        }
        terminal.person.write_all(b"secret").unwrap();
        match is_interrupted {
            true => running.signal(libc::SIGINT),
            false => terminal.person.write_all(b"\n").unwrap(),
        }
        let code = if is_interrupted {
            128 + libc::SIGINT as u8
        } else {
            0
        };
        running.end().with_code(code);
        assert!(terminal.modes() == before);
        drop(terminal.program);
        // The terminal hangs up when nobody has it open.
        let _ = terminal.person.read_to_end(&mut shown);
        let shown = String::from_utf8_lossy(&shown);
        assert!(!shown.contains("secret"), "{shown}");
    }
    home.say(&["pull", &name]);
}

#[test]
fn a_signal_ends_a_pull_at_once_although_the_registry_is_silent() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let home = Home::new();
    let name = format!("{}/tool", silent.local_addr().unwrap());
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let running = home.coracle(&["pull", &name]).start();
        let _connection = silent.accept().unwrap();
        running.signal(signal);
        let ended = running.end().with_code(128 + signal as u8);
        ended.saying(&["stopped before it was done"]);
    }
    home.verify();
}

#[test]
fn the_thread_that_unpacks_a_layer_is_confined_while_the_layer_comes() {
    let maker = Home::new();
    let mut seed = Random(0x5eed);
    let noise: String = (0..1 << 20)
        .map(|_| char::from(b' ' + (seed.next() >> 60) as u8))
        .collect();
    maker.import("tool:1", &noise);
    let registry = Registry::start();
    registry.push(&format!("{}:tool:1", maker.store().display()), "tool:1");
    let home = Home::new();
    let name = format!("{}/tool:1", stalling(&registry, 128 << 10));
    let running = home.coracle(&["pull", &name]).start();
    // It waits for more of the layer.
    running.wait_until_thread_is_in("unpack", libc::SYS_futex);
    let status = status_of(&running, "unpack");
    for line in ["Seccomp:\t2\n", "NoNewPrivs:\t1\n", "CapEff:\t0000000000000000\n"] {
        assert!(status.contains(line), "no {line:?} in {status}");
    }
    running.signal(libc::SIGINT);
    running.end().with_code(128 + libc::SIGINT as u8);
    // What has come is not got again.
    let whole = format!("{}/tool:1", registry.host);
    home.say(&["pull", &whole]);
    home.verify();
}

#[test]
fn a_host_that_cannot_confine_loads_all_the_same_and_says_so() {
    let maker = Home::new();
    maker.import("tool:1", "hello");
    let archive = maker.end(&["save", "tool:1"]).with_code(0).stdout;
    let home = Home::new();
    let running = home.coracle(&["load"]).keyboard().start();
    running.wait_until_thread_is_in("coracle", libc::SYS_read);
    let status = status_of(&running, "coracle");
    assert!(status.contains("Seccomp:\t2\n"), "{status}");
    running.signal(libc::SIGTERM);
    assert_eq!(running.end().signal, Some(libc::SIGTERM));
    let other = Home::new();
    let lacking = other.coracle(&["load"]).input(archive);
    let lacking = lacking.without_call(libc::SYS_landlock_create_ruleset);
    lacking.end().with_code(0).saying(&["files", "NOT ENFORCED"]);
    assert_eq!(other.names(), ["tool:1"]);
}

/// What the kernel says of a thread of this name.
fn status_of(running: &Running, thread: &str) -> String {
    let tasks = fs::read_dir(format!("/proc/{}/task", running.id())).unwrap();
    let mut tasks = tasks.map(|task| task.unwrap().path());
    let is_it =
        |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == thread);
    fs::read_to_string(tasks.find(is_it).unwrap().join("status")).unwrap()
}

#[test]
fn what_is_damaged_is_named_and_what_is_not_needed_is_given_back() {
    let home = Home::new();
    home.import("tool:1", "hello");
    home.import("tool:1", &"hello again ".repeat(1000));
    assert_eq!(home.say(&["images", "-f", "dangling=true"]).lines().count(), 2);
    let pruned = home.end(&["prune"]).with_code(0);
    assert_eq!(pruned.stdout, b"", "no guest has ended");
    pruned.saying(&["1 image without a name", "given back"]);
    home.end(&["prune"]).with_code(0).in_silence();
    home.verify();
    let layer = file_in(&home.store().join("layers/sha256"));
    let mut bytes = fs::read(&layer).unwrap();
    bytes[0] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let ended = home.end(&["images", "--verify"]).with_code(125);
    let named = String::from_utf8(ended.stdout.clone()).unwrap();
    assert!(named.contains(layer.to_str().unwrap()), "{named}");
    ended.saying(&["damaged"]);
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let (_registry, name, _) = registry_with(Registry::start(), &"x".repeat(3 << 20));
    let home = Home::new();
    // The file system is gone with the shell's namespace.
    let script = "mount -t tmpfs -o size=2m none \"$XDG_DATA_HOME\" && \"$1\" import /etc/hostname 2>&- ; \
                  tar -C /etc -c hostname | \"$1\" import - small && ! \"$1\" pull NAME && \"$1\" images --verify && \
                  \"$1\" images --names";
    let script = script.replace("NAME", &name);
    let ended = home
        .at_home(Coracle::new(&[]).through(&["unshare", "-Urm", "sh", "-c", &script, "sh"]))
        .end()
        .with_code(0);
    let said = String::from_utf8(ended.stdout.clone()).unwrap();
    assert!(said.ends_with("small:latest\n"), "{said}");
    ended.saying(&["the disk has room for", "coracle prune"]);
}

fn file_in(directory: &Path) -> PathBuf {
    fs::read_dir(directory).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn what_an_image_or_a_flag_says_that_no_guest_can_do_is_told_before_one_starts() {
    let home = Home::new();
    home.import("tool", "hello");
    let directory = home.path("root");
    let directory = directory.to_str().unwrap();
    let zero = ["import", "-c", "CMD [\"echo\", \"a\\u0000b\"]", directory, "zero"];
    home.end(&zero).with_code(0);
    for (arguments, words) in [
        (&["run", "zero"][..], "a zero in a text"),
        (&["run", directory, "sh"], "is a directory"),
        (
            &["run", "--init=image", "tool", "true"],
            "leave one of the two out",
        ),
        (&["run", "--tmpfs", "run", "tool"], "begins with /"),
        (&["run", "--tmpfs", "/", "tool"], "another path"),
        (&["run", "--tmpfs", "/run,size=64k", "tool"], "/run:size=64m"),
    ] {
        home.end(arguments).with_code(125).saying(&[words]);
    }
}

#[test]
fn a_damaged_root_file_system_is_told_with_what_mends_it() {
    let home = Home::new();
    home.import("tool", "hello");
    let roots = fs::read_dir(home.store().join("roots/sha256")).unwrap();
    let roots: Vec<PathBuf> = roots.map(|entry| entry.unwrap().path()).collect();
    for root in &roots {
        for bytes in [&b""[..], &[7; 65536], &[0; 1026]] {
            fs::write(root, bytes).unwrap();
            let told = home.end(&["run", "tool"]).with_code(125);
            told.saying(&["is damaged: remove the file", root.to_str().unwrap()]);
        }
    }
    assert_eq!(roots.len(), 1);
}
