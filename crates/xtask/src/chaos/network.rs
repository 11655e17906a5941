//! Networks for several servers on one machine: each server in a namespace with two cables, one to
//! the clients and one to the other servers, which can be pulled.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::programs;
use crate::server_process::Home;

/// Nobody's addresses outside of tests (RFC 2544); the next number is of the process.
const CLIENTS: &str = "198.18";
const PEERS: &str = "198.19";

/// Namespaces of the kernel with cables between them. They go when this is dropped.
#[derive(Debug)]
pub(super) struct Network {
    /// What all of its names begin with: those of one process.
    name: String,
    nodes: usize,
    dir: TempDir,
}

fn address(net: &str, host: usize) -> String {
    format!("{net}.{}.{host}", std::process::id() % 250)
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
        network.make().map_err(|error| {
            format!("cannot make networks (be root, with CAP_NET_ADMIN and CAP_SYS_ADMIN): {error}")
        })?;
        Ok(network)
    }

    fn make(&self) -> Result<(), String> {
        // The bridge of the servers has a namespace of its own: what this machine's rules let
        // through between others does not matter there.
        let (hub, clients) = (self.hub(), self.name.clone());
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        ip(&["link", "add", &clients, "type", "bridge"])?;
        ip(&["link", "set", &clients, "up"])?;
        ip(&["address", "add", &format!("{}/24", address(CLIENTS, 1)), "dev", &clients])?;
        for node in 0..self.nodes {
            let (space, cable) = (self.space(node), self.cable(node));
            ip(&["netns", "add", &space])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
            let pair = ["type", "veth", "peer", "name"];
            let here = std::process::id().to_string();
            ip(&[&["-n", &space, "link", "add", "clients"], &pair[..], &[&cable, "netns", &here]]
                .concat())?;
            ip(&["link", "set", &cable, "master", &clients, "up"])?;
            ip(&[&["-n", &space, "link", "add", "peers"], &pair[..], &[&cable, "netns", &hub]]
                .concat())?;
            ip(&["-n", &hub, "link", "set", &cable, "master", "bridge", "up"])?;
            for (inside, net) in [("clients", CLIENTS), ("peers", PEERS)] {
                let address = format!("{}/24", address(net, 10 + node));
                ip(&["-n", &space, "address", "add", &address, "dev", inside])?;
                ip(&["-n", &space, "link", "set", inside, "up"])?;
            }
        }
        Ok(())
    }

    fn secret(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn cable(&self, node: usize) -> String {
        format!("{}v{node}", self.name)
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
        let address = |net, node, port| format!("{}:{port}", address(net, 10 + node));
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
        let state = if plugged { "up" } else { "down" };
        ip(&["-n", &self.hub(), "link", "set", &self.cable(node), state])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            let _ = ip(&["link", "delete", &self.cable(node)]);
            let _ = ip(&["netns", "delete", &self.space(node)]);
        }
        let _ = ip(&["netns", "delete", &self.hub()]);
        let _ = ip(&["link", "delete", &self.name]);
    }
}
