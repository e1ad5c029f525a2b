//! The success ping after a run: one GET, so that a dead man's switch notices when ticks stop.

use std::time::Duration;

use anyhow::{Context, bail};
use url::Url;

use super::client::{agent, proxy_for};

/// A ping must not keep the next tick waiting.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Fetches `url` and reads nothing of the answer but its status.
///
/// # Errors
/// Names the host only: such URLs carry a token in their path.
pub fn ping(url: &str) -> anyhow::Result<()> {
    let parsed = Url::parse(url).context("the ping URL")?;
    let host = parsed.host_str().unwrap_or("its host").to_owned();
    let agent = agent(&parsed, TIMEOUT, proxy_for(&parsed))?;
    let answer = agent.get(url).call();
    let status = answer
        .map_err(|error| anyhow::anyhow!("{host}: {}", error.to_string().replace(url, "…")))?;
    if status.status().as_u16() >= 400 {
        bail!("{host} answered {}", status.status().as_u16());
    }
    Ok(())
}
