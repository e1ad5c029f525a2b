//! The extension of MediaWiki in contrib, on wikis of its own; and its copy of the tables.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn the_extension_s_tables_are_those_that_are_compiled_in() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for dialect in ["sqlite", "mysql"] {
        let ours = scripts(&root.join("sql").join(dialect));
        let copies = scripts(
            &root
                .join("contrib/mediawiki/ScheduledEvents/sql")
                .join(dialect),
        );
        assert!(!ours.is_empty());
        assert!(
            ours == copies,
            "run contrib/mediawiki/copy-sql: {dialect} differs"
        );
    }
}

#[test]
fn the_extension_does_what_its_readme_says_on_a_wiki_on_sqlite() {
    try_on("sqlite");
}

#[test]
fn the_extension_does_what_its_readme_says_on_a_wiki_on_mariadb() {
    try_on("mariadb");
}

/// Each line it prints is a check that went well.
fn try_on(database: &str) {
    let ended = Command::new("contrib/mediawiki/tests/run")
        .args([database, env!("CARGO_BIN_EXE_punctual")])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .output()
        .expect("contrib/mediawiki/tests/run can be run");
    let (out, err) = (
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr),
    );
    assert!(ended.status.success(), "{}\n{out}{err}", ended.status);
    println!("{out}");
    assert!(out.contains(&format!(
        "ok {database}: punctual init takes the tables over\n"
    )));
    assert!(out.ends_with(&format!("all well: {database}\n")));
}

fn scripts(directory: &Path) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(directory).expect("a directory of scripts");
    files
        .map(|file| {
            let path = file.expect("a file").path();
            let name = path.file_name().expect("a name").to_string_lossy();
            let text = std::fs::read_to_string(&path).expect("a script");
            (name.into_owned(), text)
        })
        .collect()
}
