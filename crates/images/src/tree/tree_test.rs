//! What layers make together: each oddity by name, seen through the file system that is written of the tree.

use std::io::Cursor;

use super::*;
use crate::erofs::tests::{disk_of, files_on};
use crate::erofs_reader::{Files, Found};
use crate::layers_test::{directory, entry, file, hard_link, symlink, tar};

#[path = "model_test.rs"]
pub mod model;
#[path = "random_test.rs"]
pub mod random;

type Layer = Vec<crate::layers_test::Entry>;

fn files(layers: &[Layer]) -> Files {
    let tars: Vec<_> = layers.iter().map(tar).collect();
    files_on(&disk_of(&tars))
}

/// All paths but that of the root.
fn paths(layers: &[Layer]) -> Vec<String> {
    let files = files(layers);
    let paths = files.keys().filter(|path| !path.is_empty());
    paths
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .collect()
}

fn refusal(layers: &[Layer]) -> String {
    let mut tree = Tree::new();
    let added = layers
        .iter()
        .try_for_each(|layer| tree.add_layer(Cursor::new(tar(layer))));
    added.unwrap_err().to_string()
}

fn text(found: &Found) -> String {
    let bytes = found.data.get(&0).cloned().unwrap_or_default();
    let end = (found.size as usize).min(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn base() -> Layer {
    vec![
        directory("d").mode(0o700).xattr("user.old", "1"),
        file("d/one", "1"),
        directory("d/e"),
        file("d/e/two", "2"),
        file("f", "old"),
        hard_link("g", "f"),
    ]
}

#[test]
fn a_whiteout_removes_what_older_layers_have_whatever_type_it_is_of() {
    for whiteout in [
        file("d/.wh.e", ""),
        directory("d/.wh.e/"),
        hard_link("d/.wh.e", "nowhere"),
        symlink("d/.wh.e", "x"),
        entry(b'3', "d/.wh.e"),
    ] {
        assert_eq!(paths(&[base(), vec![whiteout]]), ["d", "d/one", "f", "g"]);
    }
    assert_eq!(
        paths(&[base(), vec![file("x/.wh.y", ""), file(".wh.x", "")]]).len(),
        6
    );
    for name in [".wh.", "d/.wh..", ".wh..."] {
        assert!(refusal(&[base(), vec![file(name, "")]]).contains("removes nothing"));
    }
}

#[test]
fn a_whiteout_removes_nothing_of_its_own_layer_whatever_the_order() {
    for layer in [
        vec![file(".wh.d", ""), directory("d"), file("d/new", "")],
        vec![directory("d"), file("d/new", ""), file(".wh.d", "")],
        vec![directory("d"), file("d/.wh..wh..opq", ""), file("d/new", "")],
        vec![directory("d"), file("d/new", ""), file("d/.wh..wh..opq", "")],
        vec![file("d/new", ""), file("d/.wh..wh..opq", ""), directory("d")],
    ] {
        assert_eq!(paths(&[base(), layer]), ["d", "d/new", "f", "g"]);
    }
    let below = vec![file("d/e/new", ""), file("d/.wh..wh..opq", "")];
    assert_eq!(paths(&[base(), below]), ["d", "d/e", "d/e/new", "f", "g"]);
    let layers = [
        base(),
        vec![file("d/.wh..wh..opq", "")],
        vec![file("d/e", "later")],
    ];
    assert_eq!(paths(&layers), ["d", "d/e", "f", "g"]);
}

#[test]
fn a_whiteout_of_a_hard_link_leaves_the_other_names() {
    let files = files(&[base(), vec![file(".wh.f", "")]]);
    let left = &files[&b"g"[..]];
    assert_eq!((left.links, text(left)), (1, "old".into()));
}

#[test]
fn what_aufs_left_behind_is_ignored() {
    let layer = vec![
        directory(".wh..wh.plnk"),
        file(".wh..wh.plnk/123.456", "x"),
        file("d/.wh..wh.aufs", ""),
        file(".wh..wh.orph", ""),
    ];
    assert_eq!(paths(&[base(), layer]), paths(&[base()]));
}

#[test]
fn a_directory_over_a_directory_keeps_what_is_in_it_and_anything_else_replaces() {
    let over = files(&[
        base(),
        vec![directory("d").mode(0o1777).owner(5, 6).xattr("user.new", "2")],
    ]);
    let found = &over[&b"d"[..]];
    assert_eq!((found.mode & 0o7777, found.uid, found.gid), (0o1777, 5, 6));
    assert_eq!(found.xattrs.keys().collect::<Vec<_>>(), [b"user.new"]);
    assert!(over.contains_key(&b"d/e/two"[..]));
    assert_eq!(paths(&[base(), vec![file("d", "")]]), ["d", "f", "g"]);
    assert_eq!(paths(&[base(), vec![symlink("d", "x")]]), ["d", "f", "g"]);
    assert_eq!(
        paths(&[base(), vec![directory("f"), file("f/x", "")]])[4..],
        ["f", "f/x", "g"]
    );
    let link = vec![symlink("d/e", "/f"), directory("d/e")];
    assert_eq!(files(&[base(), link])[&b"d/e"[..]].mode & 0o170000, 0o040000);
}

#[test]
fn names_of_a_file_share_its_attributes_over_layers() {
    let link = hard_link("d/e/h", "./f").mode(0).owner(9, 9).xattr("user.x", "1");
    let mut all = files(&[base(), vec![link]]);
    let found = all.remove(&b"d/e/h"[..]).unwrap();
    assert_eq!(
        (found.links, &found.first[..], found.mode & 0o7777, found.uid),
        (3, &b"d/e/h"[..], 0o644, 0)
    );
    assert!(found.xattrs.is_empty());
    assert_eq!(all[&b"f"[..]], found);
    // A new file takes one name, and leaves the others to the old one.
    let replaced = files(&[base(), vec![file("f", "new")]]);
    assert_eq!(text(&replaced[&b"f"[..]]), "new");
    assert_eq!(
        (text(&replaced[&b"g"[..]]), replaced[&b"g"[..]].links),
        ("old".into(), 1)
    );
    let twice = files(&[base(), vec![hard_link("f", "g"), hard_link("g", "g")]]);
    assert_eq!(twice[&b"g"[..]].links, 2);
}

#[test]
fn a_hard_link_to_nothing_or_to_a_directory_is_refused_with_both_named() {
    for target in ["none", "d", "d/e/none", "f/x", "/"] {
        let why = refusal(&[base(), vec![hard_link("link", target)]]);
        assert!(
            why.contains("'link'") && why.contains("no file is there"),
            "{why}"
        );
    }
    let of_the_removed = refusal(&[base(), vec![file("d/.wh.one", ""), hard_link("x", "d/one")]]);
    assert!(of_the_removed.contains("no file is there"));
    // The file that is linked is in the way of the link's own directory.
    let files = files(&[base(), vec![hard_link("f/x", "f"), file("f/y", "new")]]);
    assert_eq!(text(&files[&b"f/x"[..]]), "old");
}

#[test]
fn a_symbolic_link_on_the_way_is_followed_inside_of_the_root_only() {
    let links = vec![
        directory("usr/lib"),
        symlink("lib", "usr/lib"),
        symlink("up", "../../../../usr"),
        symlink("absolute", "/usr/./lib"),
        symlink("new", "usr/made/../made/here"),
        symlink("loop", "loop"),
    ];
    let way = |path: &str| {
        let paths = paths(&[links.clone(), vec![file(path, "")]]);
        let new = paths.iter().filter(|path| path.ends_with("file"));
        new.cloned().collect::<Vec<_>>()
    };
    assert_eq!(way("lib/file"), ["usr/lib/file"]);
    assert_eq!(way("up/lib/file"), ["usr/lib/file"]);
    assert_eq!(way("up/../absolute/file"), ["usr/lib/file"]);
    assert_eq!(way("new/file"), ["usr/made/here/file"]);
    assert_eq!(way("file"), ["file"]);
    assert!(refusal(&[links.clone(), vec![file("loop/x", "")]]).contains("too many symbolic links"));
    // The last name itself is never followed.
    let over = files(&[links.clone(), vec![file("lib", "file")]]);
    assert_eq!(text(&over[&b"lib"[..]]), "file");
    let gone = paths(&[
        links.clone(),
        vec![file("usr/lib/x", "")],
        vec![file("lib/.wh.x", "")],
    ]);
    assert!(!gone.contains(&"usr/lib/x".into()));
    let long = symlink("long", "n".repeat(300));
    assert!(refusal(&[vec![long, file("long/x", "")]]).contains("too long"));
}

#[test]
fn a_layer_of_detours_ends() {
    let layer = [symlink("l", "a/b/c/../../.."), file("l/1", ""), file("l/2", "")];
    let mut tree = Tree::new();
    tree.detours = walk::DETOURS_MAX - 4;
    let why = tree.add_layer(Cursor::new(tar(&layer))).unwrap_err().to_string();
    assert!(
        why.contains("'l/2'") && why.contains("too many symbolic links"),
        "{why}"
    );
}

#[test]
fn a_directory_without_an_entry_belongs_to_root() {
    let files = files(&[
        vec![file("a/b/c", "").owner(7, 7).modified(77, 7)],
        vec![file("a/b/c/d", "")],
    ]);
    for path in [&b"a"[..], b"a/b"] {
        let Found {
            mode,
            uid,
            gid,
            modified,
            ..
        } = files[path];
        assert_eq!((mode, uid, gid, modified), (0o040755, 0, 0, (77, 7)));
    }
    // An entry below a file makes a directory of it, as if the layers were mounted over each other.
    assert_eq!(files[&b"a/b/c"[..]].mode, 0o040755);
}

#[test]
fn the_root_is_a_directory_whose_attributes_a_layer_may_set() {
    assert_eq!(files(&[vec![]])[&b""[..]].mode, 0o040755);
    let root = &files(&[vec![directory("./").mode(0o1700).owner(1, 2)]])[&b""[..]].clone();
    assert_eq!((root.mode, root.uid, root.gid), (0o041700, 1, 2));
    assert!(refusal(&[vec![symlink("./", "elsewhere")]]).contains("the root of an image is a directory"));
}

#[test]
fn devices_pipes_and_all_modes_and_owners_are_as_in_the_layer() {
    let files = files(&[vec![
        entry(b'3', "c").device(4095, 0xfffff).mode(0o600),
        entry(b'4', "b").device(8, 1),
        entry(b'6', "p"),
        file("none", "x").mode(0),
        file("all", "x").mode(0o7777).owner(u32::MAX - 1, u32::MAX),
        symlink("s", "target").mode(0o600),
    ]]);
    let of = |path: &str| &files[path.as_bytes()];
    assert_eq!((of("c").mode, of("c").device), (0o020600, (4095, 0xfffff)));
    assert_eq!((of("b").mode, of("b").device), (0o060644, (8, 1)));
    assert_eq!(of("p").mode, 0o010644);
    assert_eq!(of("none").mode, 0o100000);
    let Found { mode, uid, gid, .. } = *of("all");
    assert_eq!((mode, uid, gid), (0o107777, u32::MAX - 1, u32::MAX));
    assert_eq!(
        of("s").mode,
        0o120777,
        "Linux has no other mode of a symbolic link"
    );
}

#[test]
fn a_whiteout_of_overlayfs_hides_and_is_not_seen() {
    let whiteout = |path: &str| entry(b'3', path);
    // Linux makes one whiteout with many names.
    let upper = vec![whiteout("d"), hard_link("f", "d"), hard_link("new", "f")];
    assert_eq!(paths(&[base(), upper.clone()]), ["g"]);
    assert!(paths(std::slice::from_ref(&upper)).is_empty());
    let again = vec![file("d", "a file"), file("new/below", "")];
    assert_eq!(
        paths(&[base(), upper.clone(), again]),
        ["d", "g", "new", "new/below"]
    );
    assert_eq!(paths(&[upper, vec![file(".wh.d", "")]]), Vec::<String>::new());
    let others = vec![entry(b'4', "block"), whiteout("one").device(0, 1)];
    assert_eq!(paths(&[others]), ["block", "one"]);
}

#[test]
fn a_name_of_full_length_can_be_removed() {
    let name = "n".repeat(255);
    let layers = [vec![file(&name, "")], vec![file(format!(".wh.{name}"), "")]];
    assert!(paths(&layers).is_empty());
    let literal = vec![file(format!(".wh.{name}/x"), "")];
    assert!(refusal(&[literal]).contains("a name has at most 255 bytes"));
}
