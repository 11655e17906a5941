//! Where a tool connects: the options that all tools of a running server have.

use clap::Args;

use crate::wire_client::{ClientError, WireClient};

/// The server, and the word it wants to hear.
#[derive(Clone, Debug, Args)]
pub struct ConnectArgs {
    /// Where the server listens
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "HOST:PORT")]
    pub address: String,
    /// The password, if the server wants one; taken from ACTADB_AUTH__PASSWORD when not given, so
    /// that no list of processes shows it
    #[arg(long)]
    pub password: Option<String>,
}

impl ConnectArgs {
    /// Connects.
    ///
    /// # Errors
    /// As [`WireClient::connect`].
    pub async fn connect(&self) -> Result<WireClient, ClientError> {
        WireClient::connect(&self.address, self.password().as_deref()).await
    }

    /// The password given, or the one of the environment.
    #[must_use]
    pub fn password(&self) -> Option<String> {
        let of_environment = || std::env::var("ACTADB_AUTH__PASSWORD").ok();
        self.password.clone().or_else(of_environment).filter(|password| !password.is_empty())
    }
}
