//! `coracle race` with runners that are shell scripts: what it measures and says, without a guest or a container.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A crun whose container prints what init would, and stays until it is deleted.
const CONTAINER: &str = "\
case $1 in
delete) shift 2; kill $(cat $0.$1); rm $0.$1;;
*) echo $$ >$0.$4; echo noise; sleep 0.05; echo 'Coracle guest: Linux 6.1'; echo idle; exec sleep 1000;;
esac";

/// A directory of programs that is all of PATH, but for what scripts need.
fn programs(programs: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, script) in programs {
        let path = directory.path().join(name);
        fs::write(&path, format!("#!/bin/sh\nPATH=/bin:/usr/bin\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory
}

fn race(path: &Path, arguments: &[&str]) -> Output {
    command(path, arguments).output().unwrap()
}

fn command(path: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    command
        .arg("race")
        .args(arguments)
        .env("PATH", path)
        .env("TMPDIR", path)
        .stdin(Stdio::null());
    // A shell's background job, which these tests may be, ignores both, and so would the race.
    // SAFETY: signal(2) is async-signal-safe, and may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGINT, libc::SIGQUIT] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_race_has_a_row_for_everybody() {
    let path = programs(&[("crun", CONTAINER), ("runc", "echo no such luck >&2; exit 3")]);
    let (json, markdown) = (path.path().join("race.json"), path.path().join("race.md"));
    let svg = path.path().join("race.svg");
    let output = race(
        path.path(),
        &[
            "--only",
            "crun,runc,podman",
            "--runs",
            "3",
            "--warmup",
            "1",
            "--export-json",
            json.to_str().unwrap(),
            "--export-markdown",
            markdown.to_str().unwrap(),
            "--plot",
            svg.to_str().unwrap(),
        ],
    );
    let said = text(&output.stdout);
    assert_eq!(text(&output.stderr), "", "{said}");
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains('\x1b'), "{said}");
    assert!(
        said.contains("runc    ended before the line (exit status 3), and said: no such luck"),
        "{said}"
    );
    assert!(said.contains("podman  not found on PATH"), "{said}");

    let json: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let [result] = json["results"].as_array().unwrap().as_slice() else {
        panic!("{json:#}");
    };
    assert_eq!(result["command"], "crun");
    let times: Vec<f64> = result["times"]
        .as_array()
        .unwrap()
        .iter()
        .map(|time| time.as_f64().unwrap())
        .collect();
    assert_eq!(times.len(), 3);
    assert!(times.iter().all(|time| (0.05..20.0).contains(time)), "{times:?}");
    for name in ["mean", "median", "min", "max"] {
        let value = result[name].as_f64().unwrap();
        assert!(
            value >= times[0].min(times[1]).min(times[2]),
            "{name} of {result:#}"
        );
    }
    assert!(
        result["stddev"].is_f64() && result["user"].is_f64() && result["system"].is_f64(),
        "{result:#}"
    );
    assert_eq!(json["not_measured"].as_array().unwrap().len(), 2);

    let markdown = fs::read_to_string(markdown).unwrap();
    assert!(markdown.starts_with("| runner"), "{markdown}");
    assert!(
        markdown.contains("| podman") && markdown.contains("not measured: not found on PATH"),
        "{markdown}"
    );
    let svg = fs::read_to_string(svg).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("crun"),
        "{svg}"
    );

    // Only what was there before and what was asked for is left: no container, no temporary file.
    let mut left: Vec<_> = fs::read_dir(path.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["crun", "race.json", "race.md", "race.svg", "runc"]);
}

#[test]
fn several_at_once_are_counted_by_the_second() {
    let path = programs(&[("crun", CONTAINER)]);
    let json = path.path().join("race.json");
    let output = race(
        path.path(),
        &[
            "--only",
            "crun",
            "--parallel",
            "4",
            "--export-json",
            json.to_str().unwrap(),
        ],
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(
        text(&output.stdout).contains("starts/s"),
        "{}",
        text(&output.stdout)
    );
    let json: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let result = &json["results"][0];
    assert_eq!(result["times"].as_array().unwrap().len(), 4);
    let rate = result["together"]["starts_per_second"].as_f64().unwrap();
    // None is faster than its 50 ms of sleep, and they do not wait for each other.
    let one_after_the_other = 1.0 / result["min"].as_f64().unwrap();
    assert!(rate > one_after_the_other && rate < 4.0 / 0.05, "{result:#}");
}

#[test]
fn the_clock_stops_at_the_commands_line_when_there_is_a_command() {
    let path = programs(&[(
        "crun",
        "[ $1 = run ] && echo 'Coracle guest: Linux' && sleep 0.3 && echo $(cat $3/config.json) >$0.config && \
         echo hello",
    )]);
    let json = path.path().join("race.json");
    let output = race(
        path.path(),
        &[
            "--only",
            "crun",
            "--runs",
            "1",
            "--warmup",
            "0",
            "--export-json",
            json.to_str().unwrap(),
            "--",
            "echo",
            "two words",
        ],
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let json: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert!(json["results"][0]["mean"].as_f64().unwrap() >= 0.3, "{json:#}");
    let config = fs::read(path.path().join("crun.config")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(
        config["process"]["args"],
        serde_json::json!(["/init", "echo", "two words"])
    );
}

/// A crun whose container prints nothing, and stays until it is deleted.
const SILENT: &str = "case $1 in delete) kill $(cat $0.pid);; *) echo $$ >$0.pid; exec sleep 1000;; esac";

/// A race that its crun keeps waiting, and that crun's process.
fn waiting_race(path: &Path) -> (Child, String) {
    let race = command(path, &["--only", "crun"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let noted = path.join("crun.pid");
    let mut pid = String::new();
    wait_until("the runner is started", || {
        pid = fs::read_to_string(&noted).unwrap_or_default();
        pid.ends_with('\n')
    });
    (race, pid.trim().to_owned())
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::yield_now();
    }
}

fn runs(pid: &str) -> bool {
    // A process that nobody waits for stays as a zombie, without a command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| !words.is_empty())
}

fn send(race: &Child, signal: i32) {
    // SAFETY: kill touches no memory, and the process is our child, not waited for yet.
    unsafe { libc::kill(race.id().cast_signed(), signal) };
}

#[test]
fn a_signal_ends_the_race_and_everything_in_it() {
    let path = programs(&[("crun", SILENT)]);
    let (mut race, pid) = waiting_race(path.path());
    send(&race, libc::SIGTERM);
    assert_eq!(race.wait().unwrap().code(), Some(143));
    assert!(!runs(&pid), "the runner still runs");
    let left = fs::read_dir(path.path()).unwrap().count();
    assert_eq!(left, 2, "temporary files are left");
}

#[test]
fn a_race_that_is_killed_leaves_neither_container_nor_runner_nor_file() {
    // The runner's process, which is in the race's hands, is not the container's.
    let apart = "\
case $1 in
delete) kill $(cat $0.pid); echo deleted >$0.deleted;;
*) setsid sleep 1000 & echo $! >$0.pid; exec sleep 1000;;
esac";
    for signal in [libc::SIGKILL, libc::SIGQUIT] {
        let path = programs(&[("crun", apart)]);
        let (mut race, container) = waiting_race(path.path());
        let runner = runner_of(&race);
        send(&race, signal);
        race.wait().unwrap();
        wait_until("the container is deleted", || {
            path.path().join("crun.deleted").exists() && !runs(&container)
        });
        wait_until("the runner ends", || !runs(&runner));
        // crun, and the two files that it left.
        wait_until("temporary files go", || {
            fs::read_dir(path.path()).unwrap().count() == 3
        });
    }
}

/// The child of the race that leads a group and sleeps: its crun.
fn runner_of(race: &Child) -> String {
    let children = format!("/proc/{0}/task/{0}/children", race.id());
    let mut runner = None;
    wait_until("the runner sleeps", || {
        let children = fs::read_to_string(&children).unwrap_or_default();
        runner = children
            .split_whitespace()
            .find(|pid| {
                fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.starts_with(b"sleep"))
            })
            .map(str::to_owned);
        runner.is_some()
    });
    runner.unwrap()
}

#[test]
fn a_race_that_measures_nothing_fails() {
    let path = programs(&[]);
    let output = race(path.path(), &["--only", "crun,crosvm"]);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(text(&output.stdout).matches("not found on PATH").count(), 2);
}

#[test]
fn nonsense_is_refused_before_anything_runs() {
    let path = programs(&[("crun", CONTAINER)]);
    for (arguments, why) in [
        (["--plot", "race.gif"], "ends in .svg or .png"),
        (["--only", "bochs"], "possible values"),
        (["--memory", "1M"], "out of range"),
        (["--runs", "0"], "give a whole number from 1 to 100000"),
    ] {
        let output = race(path.path(), &arguments);
        assert_eq!(output.status.code(), Some(125), "{arguments:?}");
        assert!(
            text(&output.stderr).contains(why),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
}
