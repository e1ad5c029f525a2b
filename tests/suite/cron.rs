//! Debian's real cron, calling the binary for three minutes while PHP inserts.

use std::process::{Command, Stdio};

#[test]
fn cron_fires_everything_once_and_in_time_though_runs_outlast_its_minute() {
    let ended = Command::new("contrib/cron-acceptance")
        .args(["--binary", env!("CARGO_BIN_EXE_punctual")])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .output()
        .expect("contrib/cron-acceptance can be run");
    let (out, err) = (
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr),
    );
    assert!(ended.status.success(), "{}\n{out}{err}", ended.status);
    println!("{out}");
}
