//! Networks for several servers on one machine: each server in a namespace with two cables, one to
//! the clients and one to the other servers, which can be pulled.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::programs;
use crate::server_process::Home;

/// Nobody's addresses outside of tests (RFC 2544).
const CLIENTS: &str = "198.18.0";
const PEERS: &str = "198.19.0";

/// Namespaces of the kernel with cables between them. They go when this is dropped.
#[derive(Debug)]
pub(super) struct Network {
    /// What all of its names begin with: those of one process.
    name: String,
    nodes: usize,
    dir: TempDir,
}

fn ip(words: &[&str]) -> Result<(), String> {
    programs::output(Command::new("ip").args(words)).map(drop)
}

impl Network {
    /// Makes namespaces for so many servers.
    ///
    /// # Errors
    /// When the kernel refuses: mostly for want of rights.
    pub(super) fn new(nodes: usize) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let network = Self { name: format!("acta{}", std::process::id()), nodes, dir };
        std::fs::write(network.secret(), "a secret of the chaos tests")
            .map_err(|error| error.to_string())?;
        let (clients, peers) = (network.bridge('c'), network.bridge('p'));
        for bridge in [&clients, &peers] {
            ip(&["link", "add", bridge, "type", "bridge"])?;
            ip(&["link", "set", bridge, "up"])?;
        }
        ip(&["address", "add", &format!("{CLIENTS}.1/24"), "dev", &clients])?;
        for node in 0..nodes {
            let space = network.space(node);
            ip(&["netns", "add", &space])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
            for (kind, bridge, net) in [('c', &clients, CLIENTS), ('p', &peers, PEERS)] {
                let (cable, inside) = (network.cable(kind, node), format!("to-{kind}"));
                ip(&[
                    "link", "add", &cable, "type", "veth", "peer", "name", &inside, "netns", &space,
                ])?;
                ip(&["link", "set", &cable, "master", bridge, "up"])?;
                let address = format!("{net}.{}/24", 10 + node);
                ip(&["-n", &space, "address", "add", &address, "dev", &inside])?;
                ip(&["-n", &space, "link", "set", &inside, "up"])?;
            }
        }
        Ok(network)
    }

    fn secret(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    fn bridge(&self, kind: char) -> String {
        format!("{}{kind}", self.name)
    }

    fn cable(&self, kind: char, node: usize) -> String {
        format!("{}{kind}{node}", self.name)
    }

    fn space(&self, node: usize) -> String {
        format!("{}-{node}", self.name)
    }

    /// A home for a server of the cluster, with more settings.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn home(
        &self,
        binary: &std::path::Path,
        node: usize,
        settings: &[(&str, &str)],
    ) -> Result<Home, String> {
        let address = |net: &str, node: usize, port| format!("{net}.{}:{port}", 10 + node);
        let quoted = |text: String| format!("{text:?}");
        let peers = (0..self.nodes).map(|node| address(PEERS, node, 9092)).collect::<Vec<_>>();
        let own = [
            ("network.client_address", quoted(address(CLIENTS, node, 9090))),
            ("network.admin_address", quoted(address(CLIENTS, node, 9091))),
            ("cluster.peers", quoted(peers.join(","))),
            ("cluster.node_index", node.to_string()),
            ("cluster.secret_file", format!("{:?}", self.secret())),
        ];
        let own = own.iter().map(|(key, value)| (*key, value.as_str()));
        Home::new(binary, &own.chain(settings.iter().copied()).collect::<Vec<_>>())
    }

    /// The command that serves, inside the namespace of a node.
    pub(super) fn serve_command(&self, node: usize, home: &Home) -> Command {
        // `ip` becomes the server: the process id is the server's.
        let mut command = home.serve_command_behind("ip", &["netns", "exec", &self.space(node)]);
        // Nobody but this machine reaches the addresses.
        command.arg("--allow-unauthenticated");
        command
    }

    /// Pulls the cable between a server and all others, or puts it back. Clients stay connected.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn plug(&self, node: usize, plugged: bool) -> Result<(), String> {
        ip(&["link", "set", &self.cable('p', node), if plugged { "up" } else { "down" }])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            // Its cables go along.
            let _ = ip(&["netns", "delete", &self.space(node)]);
        }
        for kind in ['c', 'p'] {
            let _ = ip(&["link", "delete", &self.bridge(kind)]);
        }
    }
}
