//! Raw commands from Python: what somebody who only loads the module would write.

use std::process::Command;

use flashsale_tests::{RedisServer, Server, artifacts, on_every_server};

on_every_server!(a_sale_in_python);

fn a_sale_in_python(server: Server) {
    let redis = RedisServer::builder(server).module().start();
    let script = artifacts::project().join("tests/python/raw_commands.py");
    let output = Command::new(artifacts::python_with_redis())
        .arg(&script)
        .arg(redis.port().to_string())
        .output()
        .expect("Python runs");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("all well"));
}
