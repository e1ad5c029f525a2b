//! Hosts of their own: a network and a host name each, as namespaces of this machine's kernel. They
//! need root. Each lives as long as a pipe of this process, so that nothing is left behind.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::site::Site;

/// A host: its processes see its name and its network, and this machine's files.
pub(crate) struct Host {
    process: Child,
    _stdin: ChildStdin,
}

impl Host {
    /// A host of this name, connected to nothing.
    #[track_caller]
    pub(crate) fn new(name: &str) -> Self {
        let settle = "hostname \"$0\" && ip link set lo up && echo ready && exec cat";
        let mut process = Command::new("unshare")
            .args(["--net", "--uts", "sh", "-c", settle, name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux is installed: contrib/test");
        let stdin = process.stdin.take().expect("stdin is a pipe");
        let mut answer = String::new();
        BufReader::new(process.stdout.take().expect("stdout is a pipe"))
            .read_line(&mut answer)
            .expect("an answer");
        assert_eq!(
            answer, "ready\n",
            "no host of its own: it needs root and iproute2; elsewhere leave out: --skip hosts::"
        );
        Self {
            process,
            _stdin: stdin,
        }
    }

    /// What brings a program behind it onto this host.
    fn door(&self) -> [String; 3] {
        let of = |kind| format!("--{kind}=/proc/{}/ns/{kind}", self.process.id());
        ["nsenter".to_owned(), of("net"), of("uts")]
    }

    /// A program on this host, otherwise as [`Site::command`].
    pub(crate) fn command(&self, site: &Site, program: impl AsRef<OsStr>) -> Command {
        let [enter, net, uts] = self.door();
        let mut command = site.command(enter);
        command.args([net, uts]).arg(program);
        command
    }

    /// A program on this host in the tester's own environment.
    pub(crate) fn bare_command(&self, program: impl AsRef<OsStr>) -> Command {
        let [enter, net, uts] = self.door();
        let mut command = Command::new(enter);
        command.args([net, uts]).arg(program);
        command
    }

    #[track_caller]
    fn ip(&self, arguments: &str) {
        let mut ip = self.bare_command("ip");
        let status = ip.args(arguments.split_whitespace()).status();
        let status = status.expect("nsenter is part of util-linux");
        assert!(status.success(), "ip {arguments}: {status}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A switch with a server's host at [`Network::SERVER`] and other hosts on lines that can be cut.
pub(crate) struct Network {
    hub: Host,
}

impl Network {
    /// The address of the server's host.
    pub(crate) const SERVER: &'static str = "10.77.0.1";

    /// With a host for the server alone.
    #[track_caller]
    pub(crate) fn new() -> Self {
        let hub = Host::new("server");
        hub.ip("link add name switch type bridge");
        hub.ip(&format!("address add {}/24 dev switch", Self::SERVER));
        hub.ip("link set switch up");
        Self { hub }
    }

    /// The host of the server.
    pub(crate) fn server(&self) -> &Host {
        &self.hub
    }

    /// One more host, with the last part of its address; its line has the host's name.
    #[track_caller]
    pub(crate) fn host(&self, name: &str, number: u8) -> Host {
        let host = Host::new(name);
        self.hub.ip(&format!(
            "link add {name} type veth peer name line netns {}",
            host.process.id()
        ));
        self.hub.ip(&format!("link set {name} master switch up"));
        host.ip(&format!("address add 10.77.0.{number}/24 dev line"));
        host.ip("link set line up");
        host
    }

    /// Nothing passes the line of `name` any more, in either direction; nobody is told.
    pub(crate) fn cut(&self, name: &str) {
        self.hub.ip(&format!("link set {name} down"));
    }

    /// The line of `name` is whole again.
    pub(crate) fn mend(&self, name: &str) {
        self.hub.ip(&format!("link set {name} up"));
    }
}
