//! `coracle run IMAGE`: OCI images as the root file systems of guests.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use libc::SIGTERM;

use crate::harbour::Harbour;
use crate::run::{Coracle, Finished};

crate::group!["images":
    what_the_image_says_of_its_program_is_obeyed,
    what_the_person_says_counts_more,
    what_is_written_is_in_the_layer_and_gone_with_the_guest,
    a_root_that_is_not_to_be_written_is_not_and_file_systems_in_memory_are,
    the_root_is_the_image_with_owners_modes_and_what_programs_expect,
    a_named_guest_runs_commands_in_its_image_and_ends_by_the_images_signal,
    an_image_that_a_guest_runs_stays,
    an_init_of_the_image_is_pid_1,
    what_cannot_be_run_is_told,
    files_links_and_pipes_of_an_image_where_something_is_mounted_do_no_harm,
];

/// Where busybox is on the host.
const BUSYBOX: &str = "/bin/busybox";

/// A harbour with the image `box`: busybox, a user and some files. `changes` say how it is run.
fn with_box(changes: &[&str]) -> Harbour {
    let harbour = Harbour::new();
    let root = harbour.path().join("root");
    for directory in ["bin", "etc", "srv/there", "var/data"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "ls", "id", "cat", "mount", "stat", "ping", "touch", "rm", "mv", "sleep", "poweroff", "env",
        "pwd", "hostname",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    let write = |name: &str, text: &str| fs::write(root.join(name), text).unwrap();
    write(
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\n",
    );
    write("etc/group", "root:x:0:\nusers:x:100:\nwheel:x:10:ann\n");
    write("srv/there/file", "of the image\n");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(root.join("var/data"), fs::Permissions::from_mode(0o1730)).unwrap();
    let mut words = vec!["import"];
    words.extend(changes.iter().flat_map(|change| ["-c", change]));
    let root = root.to_str().unwrap().to_owned();
    words.extend([root.as_str(), "box"]);
    harbour.coracle(&words).end().assert_code(0);
    harbour
}

fn run(harbour: &Harbour, options: &[&str], words: &[&str]) -> Coracle {
    harbour.coracle(&["run"]).args(options).args(["box"]).args(words)
}

fn shell(harbour: &Harbour, options: &[&str], script: &str) -> Finished {
    run(harbour, options, &["sh", "-c", script]).end()
}

#[track_caller]
fn assert_wrote(finished: &Finished, stdout: &str) {
    finished.assert_code(0);
    assert_eq!(finished.console(), stdout, "{finished}");
    assert_eq!(finished.stderr, "", "{finished}");
}

fn what_the_image_says_of_its_program_is_obeyed() {
    let harbour = with_box(&[
        "ENTRYPOINT [\"sh\", \"-c\"]",
        "CMD [\"id; pwd; echo $A $HOME\"]",
        "ENV A=one PATH=/bin",
        "USER ann",
        "WORKDIR /srv/made/here",
    ]);
    let finished = run(&harbour, &[], &[]).end();
    assert_wrote(
        &finished,
        "uid=1000(ann) gid=100(users) groups=10(wheel)\n/srv/made/here\none /home/ann\n",
    );
    let finished = run(&harbour, &[], &["echo $A; exit 7"]).end();
    finished.assert_code(7).assert_prints("one\n");
}

fn what_the_person_says_counts_more() {
    let harbour = with_box(&[
        "ENTRYPOINT [\"cat\"]",
        "CMD [\"/no\"]",
        "ENV A=one",
        "USER ann",
        "WORKDIR /srv",
    ]);
    let options = [
        "--entrypoint",
        "sh",
        "-e",
        "A=two",
        "-u",
        "0:0",
        "-w",
        "/etc",
        "--hostname",
        "other",
    ];
    let finished = run(&harbour, &options, &["-c", "id -u; pwd; echo $A; hostname"]).end();
    assert_wrote(&finished, "0\n/etc\ntwo\nother\n");
    let finished = run(&harbour, &["--entrypoint", ""], &["pwd"]).end();
    assert_wrote(&finished, "/srv\n");
}

fn what_is_written_is_in_the_layer_and_gone_with_the_guest() {
    let harbour = with_box(&[]);
    let change = "echo new >/new; echo more >>/srv/there/file; rm /etc/group; mv /srv/there /srv/gone; touch /root 2>/dev/null; \
        cat /new /srv/gone/file; ls /srv /etc";
    let finished = shell(&harbour, &[], change);
    assert_wrote(
        &finished,
        "new\nof the image\nmore\n/etc:\nhosts\npasswd\n\n/srv:\ngone\n",
    );
    let finished = shell(&harbour, &[], "ls /new; cat /srv/there/file; ls /etc");
    finished.assert_code(0).assert_prints("of the image\n");
    assert!(
        finished.console().ends_with("group\nhosts\npasswd\n"),
        "{finished}"
    );
}

fn a_root_that_is_not_to_be_written_is_not_and_file_systems_in_memory_are() {
    let harbour = with_box(&[]);
    let script = "touch /new || echo read-only; touch /t/x /run/y && ls /t /run; mount";
    let finished = shell(
        &harbour,
        &[
            "--read-only",
            "--tmpfs",
            "/t:size=64k,mode=700",
            "--tmpfs",
            "/run",
        ],
        script,
    );
    finished
        .assert_code(0)
        .assert_prints("read-only\n")
        .assert_prints("/run:\ny\n");
    finished.assert_prints("tmpfs on /t type tmpfs (rw,relatime,size=64k,mode=700");
    finished.assert_prints("tmpfs on /run type tmpfs (rw,nosuid,nodev,noexec");
}

fn the_root_is_the_image_with_owners_modes_and_what_programs_expect() {
    let harbour = with_box(&[]);
    let script = "stat -c '%a %u %n' / /var/data /etc/passwd; cat /srv/there/file; ping -c 1 localhost; \
        cat /sys/fs/cgroup/cgroup.controllers; ls -d /dev/mqueue /dev/shm /proc/1; mount";
    let finished = shell(&harbour, &[], script);
    finished
        .assert_code(0)
        .assert_prints("711 0 /\n1730 0 /var/data\n644 0 /etc/passwd\nof the image\n");
    finished
        .assert_prints("1 packets received")
        .assert_prints("memory");
    finished.assert_prints("/dev/mqueue\n/dev/shm\n/proc/1\n");
    finished.assert_prints("overlay on / type overlay (rw,");
}

fn a_named_guest_runs_commands_in_its_image_and_ends_by_the_images_signal() {
    let harbour = with_box(&["ENV A=one", "STOPSIGNAL SIGUSR1", "WORKDIR /srv"]);
    let wait = "trap 'echo asked; exit 3' USR1; touch /ready; while :; do sleep 0.1; done";
    assert_eq!(
        harbour.say(&["run", "-d", "--name", "web", "box", "sh", "-c", wait]),
        "web\n"
    );
    let say = |script: &str| harbour.say(&["exec", "web", "sh", "-c", script]);
    assert_eq!(
        say("while ! [ -e /ready ]; do sleep 0.1; done; pwd; echo $A; cat /srv/there/file"),
        "/srv\none\nof the image\n"
    );
    harbour.say(&["stop", "web"]);
    assert_eq!(harbour.say(&["wait", "web"]), "3\n");
    assert!(harbour.say(&["logs", "web"]).contains("asked"));
}

fn an_image_that_a_guest_runs_stays() {
    let harbour = with_box(&[]);
    harbour.say(&["run", "-d", "--name", "web", "box", "sleep", "1000"]);
    let refused = harbour.coracle(&["rmi", "box"]).end();
    refused.assert_code(125).assert_explains("box");
    harbour.say(&["exec", "web", "ls", "/srv/there"]);
    harbour.say(&["kill", "web"]);
    harbour.coracle(&["rmi", "box"]).end().assert_code(0);
    assert!(layers(harbour.path()).is_empty());
}

/// The tars and the metadata in the store.
fn layers(home: &Path) -> Vec<String> {
    let entries = |directory: &str| fs::read_dir(home.join("data/coracle/images").join(directory));
    let entries = ["layers/sha256", "roots/sha256"]
        .map(entries)
        .into_iter()
        .flatten()
        .flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn an_init_of_the_image_is_pid_1() {
    let harbour = with_box(&[]);
    let root = harbour.path().join("root");
    let init = root.join("bin/own");
    fs::write(
        &init,
        "#!/bin/sh\necho pid $$ of $(cat /srv/there/file)\npoweroff -f\n",
    )
    .unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
    harbour
        .coracle(&["import", root.to_str().unwrap(), "box"])
        .end()
        .assert_code(0);
    run(&harbour, &["--init=/bin/own"], &[])
        .end()
        .assert_powered_off()
        .assert_prints("pid 1 of of the image\n");
}

fn what_cannot_be_run_is_told() {
    let harbour = with_box(&[]);
    run(&harbour, &[], &[])
        .end()
        .assert_code(125)
        .assert_explains("says no command to run");
    run(&harbour, &[], &["no-such"])
        .end()
        .assert_code(127)
        .assert_explains("no program no-such");
    let missing = harbour.coracle(&["run", "--pull", "never", "none", "sh"]).end();
    missing.assert_code(127).assert_explains("coracle pull none");
    let foreign = run(&harbour, &["--platform", "linux/arm64"], &["sh"]).end();
    foreign.assert_code(125).assert_explains("linux/arm64");
    let user = run(&harbour, &["-u", "nobody-here"], &["id"]).end();
    user.assert_code(125).assert_explains("no user nobody-here");
    // A signal that asks coracle to end is the program's.
    let mut sleeping = run(&harbour, &[], &["sh", "-c", "echo up; exec sleep 1000"]).start();
    sleeping.wait_for("up");
    sleeping.signal(SIGTERM);
    sleeping.end().assert_code(128 + SIGTERM);
}

fn files_links_and_pipes_of_an_image_where_something_is_mounted_do_no_harm() {
    let harbour = with_box(&[]);
    let root = harbour.path().join("root");
    fs::write(root.join("proc"), "a file").unwrap();
    // This leads out of the image, and the next nowhere.
    symlink("/etc", root.join("sys")).unwrap();
    symlink("dev", root.join("dev")).unwrap();
    let pipe = std::ffi::CString::new(root.join("etc/hosts").as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: the call reads the text, which lives across it.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o644) }, 0);
    let import = ["import", root.to_str().unwrap(), "box"];
    harbour.coracle(&import).end().assert_code(0);
    let script =
        "ls -d /proc/1 /sys/class /dev/null /sys/fs/cgroup/cgroup.controllers; stat -c %F /etc/hosts";
    assert_wrote(
        &shell(&harbour, &[], script),
        "/dev/null\n/proc/1\n/sys/class\n/sys/fs/cgroup/cgroup.controllers\nfifo\n",
    );
}
