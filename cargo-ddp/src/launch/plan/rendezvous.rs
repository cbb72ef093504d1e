//! Where the launchers of several nodes meet.

use std::net::Ipv6Addr;
use std::time::Duration;

use ddp_contract::env;

use super::Options;
use crate::launch::nodes::{Rendezvous, Secret, SecretSource};
use crate::machine::Environment;
use crate::{Error, Result};

/// torchrun's default.
const MASTER_PORT: u16 = 29500;
/// How long nodes wait for each other.
const JOIN_TIMEOUT: Duration = Duration::from_secs(600);

/// Where the launchers meet; `None` for a job on one node.
pub(super) fn rendezvous(options: &Options, environment: &Environment) -> Result<Option<Rendezvous>> {
    let bad = |option, problem: String| Err(Error::BadOption { option, problem });
    let nnodes = options.nnodes.unwrap_or(1);
    if nnodes == 0 {
        return bad("nnodes", "expected at least 1 node".into());
    }
    if nnodes == 1 {
        let alone = options.node_rank.is_none_or(|rank| rank == 0);
        return if alone { Ok(None) } else { bad("node-rank", "requires --nnodes".into()) };
    }
    let Some(node_rank) = options.node_rank else {
        return bad(
            "node-rank",
            format!("required for a job on {nnodes} nodes: a different number on each node, from 0"),
        );
    };
    if node_rank >= nnodes {
        return bad("node-rank", format!("node {node_rank} not found: nodes are 0 to {}", nnodes - 1));
    }
    let Some(master_addr) = options.master_addr.clone() else {
        return bad("master-addr", "required for several nodes: an address of node 0 that all nodes can reach".into());
    };
    let master_addr = match host(&master_addr) {
        Ok(host) => host.to_owned(),
        Err(problem) => return bad("master-addr", problem),
    };
    Ok(Some(Rendezvous {
        nnodes,
        node_rank,
        master_addr,
        master_port: options.master_port.unwrap_or(MASTER_PORT),
        timeout: options.join_timeout.unwrap_or(JOIN_TIMEOUT),
        secret: secret(options, environment)?,
    }))
}

/// The host that `--master-addr` names. An IPv6 address is in brackets where a port can follow it, and a link-local one
/// ends with its interface (`fe80::1%eth0`).
fn host(master_addr: &str) -> Result<&str, String> {
    let is_ipv6 = |address: &str| address.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    if let Some(address) = master_addr.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
        && is_ipv6(address)
    {
        return Ok(address);
    }
    match master_addr.rsplit_once(':') {
        Some((host, port)) if !is_ipv6(master_addr) && port.parse::<u16>().is_ok() => {
            Err(format!("`{master_addr}` has a port: use --master-addr '{host}' --master-port {port}"))
        }
        _ => Ok(master_addr),
    }
}

/// Where the job's secret is: the flag wins over the environment, and there a value over a file.
fn secret(options: &Options, environment: &Environment) -> Result<SecretSource> {
    if let Some(path) = &options.secret_file {
        return Ok(SecretSource::File(path.clone()));
    }
    if let Some(value) = environment.non_empty(env::JOB_SECRET) {
        let secret = value.to_str().ok_or_else(|| "the secret is not UTF-8".to_owned()).and_then(Secret::new);
        return secret.map(SecretSource::Value).map_err(Error::BadSecret);
    }
    let file = environment.non_empty(env::JOB_SECRET_FILE);
    Ok(file.map_or(SecretSource::None, |path| SecretSource::File(path.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn master_addr_is_a_name_or_an_address_without_a_port() {
        for (text, expected) in [
            ("node-0", "node-0"),
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("[fe80::1%eth0]", "fe80::1%eth0"),
            ("[node-0]", "[node-0]"),
        ] {
            assert_eq!(host(text), Ok(expected), "{text}");
        }
        for (text, name) in [("[::1]:29500", "[::1]"), ("node-0:29500", "node-0"), ("10.0.0.1:29500", "10.0.0.1")] {
            let problem = host(text).unwrap_err();
            assert!(problem.ends_with(&format!("use --master-addr '{name}' --master-port 29500")), "{problem}");
        }
    }

    #[test]
    fn secret_of_the_flag_wins_over_the_environment_and_a_value_over_a_file() {
        let variables = [("DDP_JOB_SECRET", "0123456789abcdef"), ("DDP_JOB_SECRET_FILE", "/f")];
        let find = |file: Option<&str>, environment: &Environment| {
            let options = Options { secret_file: file.map(Into::into), ..Options::default() };
            format!("{:?}", secret(&options, environment).unwrap())
        };
        assert_eq!(find(Some("/g"), &variables.into()), r#"File("/g")"#);
        assert!(find(None, &variables.into()).starts_with("Value("));
        assert_eq!(find(None, &[("DDP_JOB_SECRET", ""), variables[1]].into()), r#"File("/f")"#);
        assert_eq!(find(None, &Environment::default()), "None");
        assert!(matches!(secret(&Options::default(), &[("DDP_JOB_SECRET", "x")].into()), Err(Error::BadSecret(_))));
    }
}
