//! `coracle cp`: files that go into a guest that runs, and come back from it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::harbour::Harbour;
use crate::images::noise;
use crate::place;
use crate::run::{Coracle, Finished};

crate::group!["cp":
    a_tree_goes_in_and_comes_back_as_it_was,
    a_copy_goes_where_dockers_does,
    an_archive_goes_in_by_stdin_and_comes_out_by_stdout,
    owners_are_kept_where_that_is_asked_for,
    what_cannot_be_copied_is_an_error_that_says_why,
    a_disk_that_is_full_leaves_what_was_there_and_nothing_half,
    a_client_that_is_killed_leaves_nothing_half,
    a_hostile_guests_links_lead_nowhere,
    a_stdout_that_takes_nothing_is_an_error,
];

/// `coracle cp OPTIONS FROM TO`.
fn cp(harbour: &Harbour, words: &[&str]) -> Coracle {
    harbour.coracle(&["cp"]).args(words)
}

#[track_caller]
fn copy(harbour: &Harbour, words: &[&str]) {
    let finished = cp(harbour, words).end();
    finished.assert_code(0);
    // Without a terminal a copy that succeeds says nothing.
    assert_eq!(finished.stderr, "", "{finished}");
}

fn shell(harbour: &Harbour, script: &str) -> Finished {
    harbour.coracle(&["exec", "web", "sh", "-c", script]).end()
}

/// What a script in the guest prints.
#[track_caller]
fn say(harbour: &Harbour, script: &str) -> String {
    let finished = shell(harbour, script);
    finished.assert_code(0);
    finished.console()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn a_tree_goes_in_and_comes_back_as_it_was() {
    let harbour = Harbour::with_web(&[]);
    let tree = harbour.path().join("tree");
    fs::create_dir_all(tree.join("a/b c")).unwrap();
    fs::write(tree.join("a/b c/noise"), noise(5, 1 << 19)).unwrap();
    fs::write(tree.join("tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("tool"), Permissions::from_mode(0o751)).unwrap();
    fs::hard_link(tree.join("tool"), tree.join("same")).unwrap();
    symlink("a/b c/noise", tree.join("link")).unwrap();
    let sparse = File::create(tree.join("sparse")).unwrap();
    sparse.write_all_at(b"data", 3 << 20).unwrap();
    sparse.set_len(8 << 20).unwrap();
    fs::set_permissions(tree.join("a"), Permissions::from_mode(0o555)).unwrap();

    copy(&harbour, &[text(&tree), "web:/tmp/there"]);
    let script = "cd /tmp/there && readlink link && stat -c '%a %h %u' tool && stat -c '%s' sparse && stat -c %a a \
        && [ $(du -k sparse | cut -f 1) -lt 1000 ] && cmp link 'a/b c/noise' && echo same";
    assert_eq!(
        say(&harbour, script),
        "a/b c/noise\n751 2 0\n8388608\n555\nsame\n"
    );
    let back = harbour.path().join("back");
    copy(&harbour, &["web:/tmp/there", text(&back)]);
    for name in ["a/b c/noise", "tool", "same", "sparse"] {
        let (before, after) = (tree.join(name), back.join(name));
        assert!(fs::read(&before).unwrap() == fs::read(&after).unwrap(), "{name}");
        let [before, after] = [before, after].map(|file| fs::metadata(file).unwrap());
        assert_eq!(before.mode(), after.mode(), "{name}");
        assert_eq!(before.modified().unwrap(), after.modified().unwrap(), "{name}");
    }
    assert_eq!(
        fs::read_link(back.join("link")).unwrap(),
        Path::new("a/b c/noise")
    );
    let inode = |name| fs::metadata(back.join(name)).unwrap().ino();
    assert_eq!(inode("tool"), inode("same"));
    assert!(fs::metadata(back.join("sparse")).unwrap().blocks() < 2048);
    assert_eq!(fs::metadata(back.join("a")).unwrap().mode() & 0o7777, 0o555);
}

fn a_copy_goes_where_dockers_does() {
    let harbour = Harbour::with_web(&[]);
    let file = harbour.path().join("file");
    fs::write(&file, "text").unwrap();
    let file = text(&file);
    copy(&harbour, &[file, "web:tmp/"]);
    copy(&harbour, &[file, "web:/tmp/new"]);
    assert_eq!(say(&harbour, "cat /tmp/file /tmp/new"), "texttext");
    let directory = harbour.path().join("d");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("inner"), "x").unwrap();
    let contents = format!("{}/.", text(&directory));
    copy(&harbour, &[text(&directory), "web:/tmp"]);
    copy(&harbour, &[&contents, "web:/tmp"]);
    copy(&harbour, &[text(&directory), "web:/tmp/other"]);
    assert_eq!(
        say(&harbour, "cd /tmp; echo inner d/inner other/*"),
        "inner d/inner other/inner\n"
    );
    say(&harbour, "ln -s other /tmp/link");
    let to = harbour.path().join("to");
    cp(&harbour, &["web:/tmp/link", text(&to)])
        .end()
        .assert_code(125)
        .assert_explains("-L copies what it leads to");
    assert!(fs::symlink_metadata(&to).is_err());
    let followed = harbour.path().join("followed");
    copy(&harbour, &["-L", "web:/tmp/link", text(&followed)]);
    assert_eq!(fs::read(followed.join("inner")).unwrap(), b"x");
    copy(&harbour, &["web:/tmp/other/.", text(harbour.path())]);
    assert_eq!(fs::read(harbour.path().join("inner")).unwrap(), b"x");
    for (words, told) in [
        (
            &[file, "web:/none/new"][..],
            "cannot copy into the directory /none",
        ),
        (
            &[file, "web:/tmp/none/"],
            "cannot copy into the directory /tmp/none/",
        ),
        (
            &[text(&directory), "web:/tmp/file"],
            "it is a file, and what is copied is a directory",
        ),
        (&[file, "web:/dev/null"], "which a copy would replace"),
        (
            &["web:/none", "x"],
            "cannot read /none: No such file or directory",
        ),
        (
            &["/none", "web:/tmp"],
            "cannot read /none: No such file or directory",
        ),
        (&["web:/proc/cpuinfo", text(&to)], "does not say how long it is"),
        (&[file, file], "one of the two has to be in a guest"),
        (&["web:/a", "web:/b"], "between guests: coracle cp A:PATH - |"),
        (&[file, "web:"], "there is no path behind the guest's name"),
        (&[file, "nobody:/"], "there is no guest 'nobody'"),
    ] {
        let finished = cp(&harbour, words).end();
        finished.assert_explains(told);
        let code = if told.contains("directory") && !told.contains("is a file") {
            127
        } else {
            125
        };
        finished.assert_code(code);
    }
    let kept = harbour.path().join("kept");
    fs::write(&kept, "old").unwrap();
    cp(&harbour, &["web:/proc/version", text(&kept)])
        .end()
        .assert_code(125)
        .assert_explains("does not say how long it is");
    assert_eq!(fs::read(&kept).unwrap(), b"old");
    harbour.say(&["pause", "web"]);
    cp(&harbour, &[file, "web:/tmp"])
        .end()
        .assert_code(125)
        .assert_explains("the guest is paused: coracle unpause");
}

fn an_archive_goes_in_by_stdin_and_comes_out_by_stdout() {
    let harbour = Harbour::with_web(&[]);
    // What busybox in the guest makes of a tree is the oracle.
    say(
        &harbour,
        "mkdir -p /tmp/t/u && echo one >/tmp/t/u/one && ln -s u /tmp/t/v",
    );
    let out = cp(&harbour, &["web:/tmp/t", "-"]).end();
    out.assert_code(0);
    assert_eq!(out.stdout.len() % 512, 0);
    let mut run = cp(&harbour, &["-", "web:/root"]).with_input().start();
    drop(run.paste(out.stdout.clone()).join().unwrap());
    run.end().assert_code(0);
    assert_eq!(say(&harbour, "cat /root/t/v/one"), "one\n");
    let theirs = shell(&harbour, "tar c -C /tmp t");
    theirs.assert_code(0);
    say(&harbour, "mkdir /tmp/into");
    let mut run = cp(&harbour, &["-", "web:/tmp/into"]).with_input().start();
    drop(run.paste(theirs.stdout.clone()).join().unwrap());
    run.end().assert_code(0);
    assert_eq!(say(&harbour, "cat /tmp/into/t/v/one"), "one\n");
    let mut run = cp(&harbour, &["-", "web:/tmp/into"]).with_input().start();
    drop(run.paste(vec![b'x'; 5000]).join().unwrap());
    run.end()
        .assert_code(125)
        .assert_explains("this is no tar archive");
}

fn owners_are_kept_where_that_is_asked_for() {
    let harbour = Harbour::with_web(&[]);
    let file = harbour.path().join("file");
    fs::write(&file, "").unwrap();
    std::os::unix::fs::chown(&file, Some(1234), Some(56)).unwrap();
    copy(&harbour, &[text(&file), "web:/tmp/roots"]);
    copy(&harbour, &["-a", text(&file), "web:/tmp/kept"]);
    assert_eq!(
        say(&harbour, "stat -c %u:%g /tmp/roots /tmp/kept"),
        "0:0\n1234:56\n"
    );
    say(&harbour, "chmod 6755 /tmp/kept");
    let owner = |options: &[&str], to: &str| {
        let to = harbour.path().join(to);
        copy(&harbour, &[options, &["web:/tmp/kept", text(&to)]].concat());
        let found = fs::metadata(to).unwrap();
        // A guest makes nothing here set-user-ID.
        assert_eq!(found.mode() & 0o7777, 0o755);
        (found.uid(), found.gid())
    };
    assert_eq!(owner(&[], "ours"), (0, 0));
    assert_eq!(owner(&["-a"], "theirs"), (1234, 56));
}

fn what_cannot_be_copied_is_an_error_that_says_why() {
    let harbour = Harbour::with_web(&[]);
    say(
        &harbour,
        "mkdir /tmp/d && mkfifo /tmp/d/pipe && mknod /tmp/d/disk b 7 0 && echo kept >/tmp/d/file",
    );
    let to = harbour.path().join("d");
    let finished = cp(&harbour, &["web:/tmp/d", text(&to)]).end();
    finished.assert_code(0);
    finished.assert_explains("left out: d/disk is a device or a pipe");
    finished.assert_explains("left out: d/pipe is a device or a pipe");
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    // All of a guest's root, and nothing of what its kernel makes up.
    let root = harbour.path().join("root");
    let finished = cp(&harbour, &["web:/", text(&root)]).end();
    finished.assert_code(0);
    finished.assert_explains("proc is the kernel's, and has no files");
    assert!(fs::metadata(root.join("bin/busybox")).unwrap().len() > 1 << 20);
    harbour.say(&["kill", "web"]);
    cp(&harbour, &["web:/", text(&to)])
        .end()
        .assert_code(125)
        .assert_explains("does not run");
}

fn a_disk_that_is_full_leaves_what_was_there_and_nothing_half() {
    let harbour = Harbour::with_web(&[]);
    let file = harbour.path().join("file");
    fs::write(&file, noise(3, 1 << 20)).unwrap();
    say(
        &harbour,
        "mkdir /tmp/s && mount -t tmpfs -o size=512k none /tmp/s && echo before >/tmp/s/file",
    );
    cp(&harbour, &[text(&file), "web:/tmp/s/"])
        .end()
        .assert_code(125)
        .assert_explains("in guest 'web': cannot write file: No space left on device");
    assert_eq!(say(&harbour, "cat /tmp/s/file && ls -A /tmp/s"), "before\nfile\n");
}

fn a_client_that_is_killed_leaves_nothing_half() {
    let harbour = Harbour::with_web(&[]);
    let small = harbour.path().join("small");
    fs::create_dir(&small).unwrap();
    fs::write(small.join("file"), noise(1, 1 << 16)).unwrap();
    // Half of a file is under way, and its name is another file's.
    let archive = {
        say(
            &harbour,
            "mkdir -p /tmp/k && head -c 200000 /dev/zero >/tmp/k/file",
        );
        let out = cp(&harbour, &["web:/tmp/k/.", "-"]).end();
        out.assert_code(0);
        out.stdout
    };
    say(&harbour, "echo before >/tmp/k/file");
    let mut run = cp(&harbour, &["-", "web:/tmp/k"]).with_input().start();
    let typing = run.paste(archive[..archive.len() / 2].to_vec());
    // It has no name.
    let is_open = "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q '/tmp/k/k/.*(deleted)'";
    say(&harbour, &format!("until {is_open}; do sleep 0.05; done"));
    run.kill();
    drop(typing);
    let script = format!("while {is_open}; do sleep 0.05; done; ls -A /tmp/k/k; cat /tmp/k/file");
    assert_eq!(say(&harbour, &script), "before\n");
}

fn a_hostile_guests_links_lead_nowhere() {
    let harbour = Harbour::with_web(&[]);
    let (to, outside) = (harbour.path().join("to"), harbour.path().join("outside"));
    fs::create_dir_all(to.join("d")).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, to.join("d/escape")).unwrap();
    say(
        &harbour,
        "mkdir -p /tmp/d/escape && echo evil >/tmp/d/escape/evil",
    );
    cp(&harbour, &["web:/tmp/d", text(&to)])
        .end()
        .assert_code(125)
        .assert_explains("a symbolic link to a directory is not followed");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // A link to a file is replaced, and what it leads to stays.
    fs::write(outside.join("kept"), "kept").unwrap();
    fs::remove_file(to.join("d/escape")).unwrap();
    symlink(outside.join("kept"), to.join("d/file")).unwrap();
    say(&harbour, "rm -r /tmp/d/escape && echo new >/tmp/d/file");
    copy(&harbour, &["web:/tmp/d", text(&to)]);
    assert_eq!(fs::read(to.join("d/file")).unwrap(), b"new\n");
    assert_eq!(fs::read(outside.join("kept")).unwrap(), b"kept");
}

fn a_stdout_that_takes_nothing_is_an_error() {
    let harbour = Harbour::with_web(&[]);
    for (to, why) in [
        ("&-", "Bad file descriptor"),
        ("/dev/full", "No space left on device"),
    ] {
        for (words, what) in [
            ("cp web:/root -", "cannot write to stdout"),
            ("exec web echo lost", "cannot write the program's output"),
        ] {
            Coracle::program("sh")
                .args(["-c", &format!("exec \"$0\" {words} >{to}")])
                .args([place::coracle()])
                .variable("XDG_RUNTIME_DIR", harbour.path())
                .end()
                .assert_code(125)
                .assert_explains(&format!("coracle: {what}: {why}"));
        }
    }
}
