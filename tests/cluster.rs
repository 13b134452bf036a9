//! In a Redis Cluster a sale and its orders share a slot, and survive a failover.

use std::time::Duration;

use flashsale_tests::rush::Rush;
use flashsale_tests::sale::{assert_audit_is_clean, confirmed_orders};
use flashsale_tests::{Cluster, Server, on_every_server, wait_until};

on_every_server!(a_sale_lives_on_one_node_with_its_orders, a_failover_in_mid_sale_keeps_every_replicated_order,);

const PATIENCE: Duration = Duration::from_secs(30);

fn a_sale_lives_on_one_node_with_its_orders(server: Server) {
    let mut cluster = Cluster::with_module(server).replicas_each(0).start();
    for key in ["sale:1", "sale:2", "sale:3", "spring{7}"] {
        let mut client = cluster.client_for(key);
        client.ok(&["FLASH.CREATE", key, "ITEMS", "red", "10"]);
        assert_eq!(client.ok(&["FLASH.ORDER", key, "h1", "ann", "ITEMS", "red", "1"]).status(), "CONFIRMED");
        assert_eq!(confirmed_orders(&mut client, key).len(), 1);
    }
    let moved =
        cluster.primaries().iter().filter(|node| node.client().line("FLASH.INFO sale:1").to_string().contains("MOVED"));
    assert_eq!(moved.count(), 2);
}

fn a_failover_in_mid_sale_keeps_every_replicated_order(server: Server) {
    let key = "sale:1";
    let mut cluster = Cluster::with_module(server).start();
    let mut client = cluster.client_for(key);
    client.ok(&["FLASH.CREATE", key, "ITEMS", "red", "5000", "green", "500"]);
    let owner = client.ok(&["CLUSTER", "MYID"]).text();
    let index = (cluster.primaries().iter())
        .position(|node| node.client().ok(&["CLUSTER", "MYID"]).text() == owner)
        .expect("a primary owns the slot");

    let rush = Rush::new(key, &["red", "green"]);
    let tally = rush.run(cluster.primaries()[index].port());
    assert_eq!(client.line("WAIT 1 10000").integer(), 1);
    cluster.primaries()[index].kill_9();

    let mut client = cluster.replicas()[index].client();
    wait_until("the replica has taken over", PATIENCE, || {
        client.ok(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok") && client.ok(&["ROLE"]).status() == "master"
    });
    assert_audit_is_clean(&mut client, key);
    assert_eq!(confirmed_orders(&mut client, key), tally.confirmed);
    let mut again = rush.clone();
    again.seed = 2;
    let more = again.run(cluster.replicas()[index].port());
    assert!(more.count("CONFIRMED") > 0, "{:?}", more.outcomes);
    assert_audit_is_clean(&mut client, key);
}
