//! The relay behind a real sale, the module's or the library's: what it confirms and takes back is what the shop hears,
//! and sales are found by themselves.

use std::time::Duration;

use flashsale_tests::shop::Shop;
use flashsale_tests::{Client, RedisServer, RedisServerBuilder, wait_until, with_module_and_library};
use serde_json::{Value, json};

use crate::relay_setup::{DemoShop, PATIENCE, Relay, assert_each_once_in_order};

with_module_and_library!(
    what_the_sale_says_is_what_the_shop_hears,
    a_sale_that_opens_later_is_found,
    reserving_goes_on_because_the_stream_is_trimmed,
);

fn relay_of_all_sales(redis: &RedisServer, webhook: &str) -> Relay {
    Relay::builder(redis, webhook).set("relay.sales", "[]").set("relay.discover_ms", "200").start()
}

fn what_the_sale_says_is_what_the_shop_hears(redis: RedisServerBuilder) {
    let redis = redis.start();
    let shop = Shop::start();
    let mut client = redis.client();
    let odd: &[u8] = b"red hat&+=%\xff\0";
    client.ok(&[b"FLASH.CREATE".as_slice(), b"sale:1", b"ITEMS", b"shirt", b"10", odd, b"10"]);
    let reserve: [&[u8]; 12] = [
        b"FLASH.RESERVE",
        b"sale:1",
        b"h\xfe",
        b"ada",
        b"META",
        b"gift & card",
        b"ITEMS",
        b"shirt",
        b"2",
        odd,
        b"1",
        b"shirt",
    ];
    let mut reserve = reserve.to_vec();
    reserve.push(b"1");
    assert_eq!(client.ok(&reserve).status(), "RESERVED");
    assert_eq!(client.ok(&[b"FLASH.CONFIRM".as_slice(), b"sale:1", b"h\xfe", b"REF", b"pay=1"]).status(), "CONFIRMED");
    let returned = client.ok(&[b"FLASH.RETURN".as_slice(), b"sale:1", b"h\xfe", b"back-1", b"ITEMS", b"shirt", b"1"]);
    assert_eq!(returned.status(), "RETURNED");

    let _relay = relay_of_all_sales(&redis, &shop.url("/hook"));
    wait_until("both events arrive", PATIENCE, || shop.requests().len() == 2);
    let requests = shop.requests();
    assert_eq!(requests[0].headers["webhook-id"], "sale:1/0/1");
    assert_eq!(requests[1].headers["webhook-id"], "sale:1/0/2");
    let confirmed = requests[0].json();
    assert_eq!(confirmed["type"], "order.confirmed");
    let mut items = confirmed["data"]["items"].as_array().expect("a list").clone();
    items.sort_by_key(|item| item["qty"].as_u64());
    assert_eq!((&items[0]["sku_base64"], &items[0]["qty"]), (&json!("cmVkIGhhdCYrPSX/AA=="), &json!(1)));
    assert_eq!(items[1], json!({"sku": "shirt", "qty": 3}));
    let text = |name: &str| confirmed["data"][name].clone();
    assert_eq!([text("buyer"), text("ref"), text("meta")], ["ada", "pay=1", "gift & card"].map(Value::from));
    assert_eq!(text("hold_base64"), "aP4=");
    let returned = requests[1].json();
    assert_eq!(returned["type"], "order.returned");
    assert_eq!(returned["data"]["items"], json!([{"sku": "shirt", "qty": 1}]));
    assert_eq!(returned["data"]["hold_base64"], "aP4=");
}

fn order(client: &mut Client, key: &str, number: u32) -> String {
    let (hold, buyer) = (format!("hold-{number}"), format!("buyer-{}", number % 5));
    client.ok(&["FLASH.ORDER", key, &hold, &buyer, "ITEMS", "shirt", "1"]).status()
}

fn a_sale_that_opens_later_is_found(redis: RedisServerBuilder) {
    let redis = redis.start();
    let shop = DemoShop::start(&["--forget-share", "0.1"]);
    let _relay = relay_of_all_sales(&redis, &shop.webhook());
    let mut client = redis.client();
    // Of another type, or not of this shop: left alone.
    client.ok(&["XADD", "{sale:x}:orders", "*", "type", "confirmed"]);
    client.ok(&["FLASH.CREATE", "private", "ITEMS", "shirt", "1"]);
    assert_eq!(order(&mut client, "private", 1), "CONFIRMED");
    for key in ["sale:1", "sale:2"] {
        std::thread::sleep(Duration::from_millis(300));
        client.ok(&["FLASH.CREATE", key, "ITEMS", "shirt", "100"]);
        for number in 1..=50 {
            assert_eq!(order(&mut client, key, number), "CONFIRMED");
        }
    }
    shop.wait_for_orders(100);
    let orders = shop.orders();
    assert_each_once_in_order(&orders, "sale:1", 50);
    assert_each_once_in_order(&orders, "sale:2", 50);
    assert_eq!(orders.len(), 100);
    assert_eq!(client.ok(&["XLEN", "{sale:x}:orders"]).integer(), 1);
    assert_eq!(client.ok(&["XINFO", "GROUPS", "{private}:orders"]).items().len(), 0);
}

fn reserving_goes_on_because_the_stream_is_trimmed(redis: RedisServerBuilder) {
    let redis = redis.start();
    let shop = DemoShop::start(&[]);
    let mut client = redis.client();
    client.ok(&["FLASH.CREATE", "sale:1", "BACKLOG", "20", "ITEMS", "shirt", "1000"]);
    let mut sold = 0;
    while order(&mut client, "sale:1", sold + 1) == "CONFIRMED" {
        sold += 1;
    }
    assert_eq!(sold, 20, "BACKLOG stops reserving");
    let _relay = relay_of_all_sales(&redis, &shop.webhook());
    wait_until("a hundred are sold", PATIENCE, || {
        if order(&mut client, "sale:1", sold + 1) == "CONFIRMED" {
            sold += 1;
        }
        sold == 100
    });
    shop.wait_for_orders(100);
    assert_each_once_in_order(&shop.orders(), "sale:1", 100);
}
