//! The shelf: what went wrong elsewhere, one test for each, named after where it happened.
//!
//! Others have distributed credentials before, and their users have told the world what hurt. Each test
//! here is called `repository_number_what_is_true_here`; its comment says what happened there, what guards
//! us, and how the test failed when that guard was taken out on purpose. A guard that seems to be
//! needless is one more reason to read that comment before it goes.
//!
//! The tables name every one of these complaints, also those that cannot concern us, or not yet. A test
//! keeps them true: what they name exists, and nothing on the shelf is missing in them. `asking::x` is
//! a test in this folder, `it::grpc::x` one beside it, `src::…` one beside the code.
//!
//! # Systems that hand out credentials or configuration
//!
//! | what happened | where | here |
//! |---|---|---|
//! | the error path asks again without a pause | hashicorp/vault#20645, #26382, openbao/openbao#3747, hashicorp/consul#12607 | `asking::vault_20645_a_failing_upstream_is_asked_no_more_than_the_formula_allows`, `asking::consul_12607_no_pause_after_a_failure_is_shorter_than_the_floor` |
//! | a renewal that is always due | cert-manager/cert-manager#3396, #3813, #4423, #1122, #1506 | `asking::cert_manager_3396_no_stated_life_makes_the_refresher_spin` |
//! | the same token, taken for a new one | googleapis/google-auth-library-java#749 | `asking::google_auth_749_a_token_that_wechat_repeats_is_no_rotation` |
//! | everybody at the same moment | istio/istio#52102, cilium/cilium#44263, AzureAD/microsoft-authentication-library-for-dotnet#4196 | `asking::msal_dotnet_4196_a_thousand_reports_of_a_dead_token_are_one_fetch`; who has to come back is spread: `src::grpc::watch::streams_of_a_token_that_dies_end_within_two_seconds_spread`, `src::grpc::connection::ages_spread_by_a_fifth` |
//! | giving up while the credential is still good | hashicorp/vault#10918, hashicorp/nomad#4372 | `serving::vault_10918_a_token_is_served_to_its_last_second_and_attempts_go_on` |
//! | recovery that needs what is lost | linkerd/linkerd2#13136 | `serving::linkerd2_13136_to_recover_does_not_take_a_living_token` |
//! | a stream that is silent or stuck | etcd-io/etcd#8899, #8980, #8673, envoyproxy/envoy#35216 | `src::grpc::watch::a_beat_is_sent_after_30_s_of_silence`, `src::grpc::pace::a_stream_is_reset_30_s_after_its_reader_stopped` |
//! | an update lost while subscribing | envoyproxy/envoy#33607, #46155, #14000, #11120 | `streams::envoy_33607_no_rotation_gets_lost_while_a_stream_begins`, `src::grpc::watch::a_rotation_between_two_steps_is_told_at_once` |
//! | an end that looks like success | jito-labs/shredstream-proxy#68 | `streams::shredstream_proxy_68_no_stream_ends_as_if_all_were_well` |
//! | slow readers are cut off, or lose data in silence | rpcpool/yellowstone-grpc#180, #596, #597 | `streams::yellowstone_grpc_180_a_slow_reader_skips_to_the_newest_and_is_counted_meanwhile` |
//! | watches starve behind other traffic | etcd-io/etcd#15402, #17529, #16839 | `streams::etcd_15402_a_watch_does_not_starve_behind_calls_on_its_connection`, `it::admin::a_probe_gets_through_whatever_others_do` |
//! | memory, subscriptions and descriptors that leak | spiffe/spire#5348, #6724, grpc/grpc-rust#590 | `streams::spire_6724_a_reader_that_leaves_leaves_nothing_behind`; what a stream takes is measured by the benchmark |
//! | a shutdown that waits for streams | spiffe/spire#790, hyperium/hyper#4170 | `stop::hyper_4170_open_streams_and_deaf_peers_do_not_hold_up_the_end`, `it::restart::sigterm_drains_every_watcher_and_exits_with_0` |
//! | leaders that flap, two at a time, or restarts because one call hung | kube-vip/kube-vip#282, home-operations/kopiur#319 | `serving::kopiur_319_an_app_whose_calls_hang_delays_no_other`; there is one server to a store yet, and for several `it::replicas::stories::two_replicas_break_no_promise_whatever_happens_to_them` |
//! | a lock shorter than the work | oauth2-proxy/oauth2-proxy#3456, #1992 | not yet: claims come with the stores that replicas share; the steps are checked already, `it::replicas::stories::the_checker_finds_what_is_broken_on_purpose` |
//! | restored or copied state | gravitational/teleport#17866, #52021, #69325 | `order::teleport_17866_a_store_from_a_backup_costs_seconds_and_turns_no_order_around`, `it::restart::a_second_server_on_the_same_folder_refuses_and_names_the_first` |
//! | clocks that are wrong | linkerd/linkerd2#3980, #12413, kubernetes/client-go#448 | `clock::linkerd2_3980_a_wrong_wall_clock_neither_ends_nor_prolongs_a_life`, `it::store::a_restart_in_the_same_boot_ignores_a_clock_that_was_set`, `it::admin::a_token_is_described_by_its_generation_its_expiry_and_the_servers_clock` |
//! | probes that lie | envoyproxy/envoy#47309, spiffe/spire#5459, Basekick-Labs/arc#603, gravitational/teleport#64418, DataDog/datadog-agent#5349 | `probes::envoy_47309_ready_means_a_token_to_hand_out_in_both_directions`, `probes::datadog_agent_5349_liveness_does_not_fail_because_wechat_does`, `probes::arc_603_a_loop_that_stands_still_is_not_alive` |
//! | secrets in logs | seanmonstar/reqwest#2971, adolfousier/opencrabs#1322, tokio-rs/prost#369 | `secrets::reqwest_2971_no_filter_brings_a_url_into_the_log`, `secrets::wxjava_556_no_error_holds_a_secret_or_a_token`, `secrets::prost_369_no_message_prints_its_token` |
//! | files that are replaced while somebody reads them | spiffe/spiffe-helper#250, diem/diem#7359 | not yet: a sidecar writes such files, and there is none |
//! | certificates that are not read again | NVIDIA/OpenShell#1837, temporalio/temporal#1162 | not yet: nothing here serves TLS |
//! | calls that fail during a roll-out | kubernetes/kubernetes#43576, dapr/dapr#8602 | `probes::kubernetes_43576_readiness_goes_before_anything_else_does` |
//! | an error too long for a header | grpc/grpc-rust#2216, linkerd/linkerd2#15199 | `secrets::grpc_rust_2216_a_long_reason_is_cut_and_arrives` |
//!
//! # SDKs of WeChat and servers like this one
//!
//! | # | complaint | where | here |
//! |---|---|---|---|
//! | 1 | the older of two answers overwrites the newer one | binarywang/WxJava#369, #1222, lanrion/weixin_authorize#81 | `order::wxjava_369_there_is_one_fetch_at_a_time_whatever_callers_do`, `it::store::the_later_of_two_saves_at_a_time_wins`, `src::grpc::watch::no_news_are_passed_on_and_an_older_token_ends_the_stream` |
//! | 2 | who waited for the lock fetches again | binarywang/WxJava#963, #1554 | `order::wxjava_963_who_waited_for_a_fetch_takes_its_result` |
//! | 3 | a late complaint expires a renewed token | binarywang/WxJava#1300, Eric-Guo/wechat#76 | `order::wxjava_1300_a_late_complaint_does_not_touch_a_renewed_token` |
//! | 4 | give us a refresh that names the old token | ArtisanCloud/PowerWeChat#244 | `order::power_wechat_244_a_token_can_be_reported_by_itself` |
//! | 5 | a forced refresh first deletes the token | binarywang/WxJava#324 | `serving::wxjava_324_the_old_token_is_served_while_a_new_one_is_fetched` |
//! | 6 | callers hang while WeChat is slow | binarywang/WxJava#3043, #1845 | `serving::wxjava_3043_before_the_first_token_a_caller_waits_as_long_as_it_says` |
//! | 7 | thousands queue for a lock | binarywang/WxJava#1582, #1614, #1966, #2195 | `serving::wxjava_1582_ten_thousand_readers_wait_for_nobody_while_a_fetch_hangs` |
//! | 8 | a lock in Redis makes others wait a minute | binarywang/WxJava#3888 | `serving::wxjava_3888_a_store_that_does_not_answer_holds_up_neither_readers_nor_rotations` |
//! | 9 | Redis Cluster refuses the lock | binarywang/WxJava#3378 | cannot happen: no Redis is needed, and everything on this shelf runs without |
//! | 10 | Redis fails, so every request fetches | silenceper/wechat#762 | `asking::silenceper_762_a_failing_store_costs_no_fetch_and_no_token` |
//! | 11 | the pool of Redis is exhausted, everything stands still | binarywang/WxJava#1845 | as 8; the sidecar with a copy of its own is still to come |
//! | 12 | the token expires between the check and the read | binarywang/WxJava#229, #1198 | `serving::wxjava_229_a_token_that_is_handed_out_has_some_life_left` |
//! | 13 | several environments kill each other's token | binarywang/WxJava#866, #2867, silenceper/wechat#641 | `order::wxjava_866_a_token_that_somebody_else_retired_is_replaced_and_that_is_told` |
//! | 14 | developers must read it and not replace it | binarywang/WxJava#2871, w7corp/easywechat#688 | `secrets::wxjava_2871_who_may_only_read_cannot_refresh` |
//! | 15 | let an SDK take the token from my server | w7corp/easywechat#688, #778, thenbsp/wechat#45 | not yet: WeChat's own endpoints are still to come |
//! | 16 | let me set the URL that an SDK asks | binarywang/WxJava#2724, #3694 | not yet, as 15 |
//! | 17 | a bad token from the server, and the SDK loops | wechatpy/wechatpy#152, #629, binarywang/WxJava#77, #1381 | `asking::wechatpy_152_programs_that_report_every_token_cannot_make_it_loop` |
//! | 18 | SDKs that do not know what a dead token is | w7corp/easywechat#129, silenceper/wechat#150, node-webot/wechat-api#81 | `serving::easywechat_129_a_program_that_never_reports_never_meets_a_refused_token` |
//! | 19 | a young token dies and nobody knows who did it | foxinmy/weixin4j#12, silenceper/wechat#790 | as 13 |
//! | 20 | hosts that are not on the IP list | w7corp/easywechat#947, binarywang/WxJava#2863 | `way::easywechat_947_an_address_that_is_not_listed_is_named_with_what_to_do` |
//! | 21 | callers at the edge of expiry burn the quota | node-webot/wechat-api#179, offu/WeRoBot#288 | `asking::wechat_api_179_callers_at_the_edge_of_expiry_cost_no_fetch` |
//! | 22 | 45009, and dead until midnight | royalrick/weapp#105 | `asking::weapp_105_a_used_up_day_quota_is_asked_about_hourly_and_ends_at_midnight` |
//! | 23 | more than 20 forced refreshes a day | WeChat's community, the same page | `asking::weapp_105_forced_refreshes_are_20_a_day_and_30_s_apart_across_restarts` |
//! | 24 | the flag for stable tokens does nothing | w7corp/easywechat#2759, silenceper/wechat#665 | `way::easywechat_2759_the_mode_decides_which_endpoint_is_asked` |
//! | 25 | an add-on for JS-SDK tickets fetches for itself | w7corp/easywechat#1184 | not yet: tickets are still to come |
//! | 26 | the file of the cache cannot be written | w7corp/easywechat#2920, overtrue/laravel-wechat#272 | clients keep no cache; ours: `it::restart::a_folder_that_becomes_read_only_costs_nobody_a_token` |
//! | 27 | the token of another app | binarywang/WxJava#1473, JeffreySu/WeiXinMPSDK#131 | `order::wxjava_1473_a_state_file_under_the_name_of_another_app_is_not_believed` |
//! | 28 | every new process fetches | node-webot/co-wechat-api#12, chanxuehong/wechat#216 | `asking::co_wechat_api_12_a_new_start_fetches_nothing_and_moves_no_expiry`, `it::restart::a_restart_with_a_living_token_fetches_nothing` |
//! | 29 | apps cannot come and go, the refresher cannot be stopped | chanxuehong/wechat#253 | `stop::chanxuehong_253_the_refresher_ends_although_wechat_does_not_answer`; a new secret counts at once, `it::whole::a_changed_secret_file_is_tried_at_once`; apps at run time are still to come |
//! | 30 | is there a server for this | chanxuehong/wechat#170, wechatpy/wechatpy#334 | this program |
//! | 31 | the secret in logs and exceptions | binarywang/WxJava#556, #3245 | `secrets::wxjava_556_no_error_holds_a_secret_or_a_token`, `it::leak::nothing_is_leaked_while_wechat_plays_every_trick` |
//! | 32 | one refresh fails and nobody tries again | liyiorg/weixin-popular#199 | `serving::weixin_popular_199_a_refresh_that_failed_is_tried_again_within_the_remaining_life` |
//! | 33 | a life counted from the answer | node-webot/wechat-oauth#28 | `clock::wechat_oauth_28_a_life_is_counted_from_the_request_and_not_from_the_answer` |
//! | 34 | a token longer than its column | node-webot/wechat-oauth#41 | `way::wechat_oauth_41_a_token_of_any_length_gets_through_whole` |
//! | 35 | two refreshes in a shared cache, the expiry not written back | JeffreySu/WeiXinMPSDK#2390, #2401 | one server to a store, as 1; that the expiry is kept, as 28 |
//! | 36 | only a proxy gets to WeChat | binarywang/WxJava#1178, #1779, #3317 | `it::wechat::a_configured_proxy_is_used`, `it::wechat::a_base_url_may_have_a_path` |

mod asking;
mod clock;
mod order;
mod probes;
mod secrets;
mod serving;
mod shop;
mod stop;
mod streams;
mod way;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const TABLES: &str = include_str!("mod.rs");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Everything in the tables that looks like `file::test`.
fn named() -> BTreeSet<&'static str> {
    let rows = TABLES.lines().filter(|line| line.starts_with("//! |"));
    let words = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    words.filter(|word| word.contains("::")).collect()
}

fn file_of(module: &str) -> PathBuf {
    let path = module.replace("::", "/");
    let path = match path.strip_prefix("it/") {
        Some(beside) => format!("tests/it/{beside}"),
        None if path.starts_with("src/") => path,
        None => format!("tests/it/shelf/{path}"),
    };
    root().join(path).with_extension("rs")
}

#[test]
fn every_test_that_the_tables_name_exists() {
    assert!(named().len() > 50);
    for name in named() {
        let (module, test) = name.rsplit_once("::").unwrap();
        let read = fs::read_to_string(file_of(module));
        let source = read.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(source.contains(&format!("fn {test}(")), "{name} is gone");
    }
}

#[test]
fn every_test_on_the_shelf_is_in_the_tables_and_says_what_it_is_without_its_guard() {
    let (named, mut tests) = (named(), 0);
    for entry in fs::read_dir(root().join("tests/it/shelf")).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap();
        if module == "mod" {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        let is_test = |part: &&str| part.contains("#[tokio::test") || part.contains("#[test]");
        // Of each test, this is the comment and the beginning.
        for test in source.split("\n\n").filter(is_test) {
            let (_, name) = test.split_once("fn ").unwrap();
            let (name, _) = name.split_once('(').unwrap();
            let name = format!("{module}::{name}");
            assert!(named.contains(&*name), "{name} is in no table");
            assert!(test.contains("/// Without the guard"), "{name}");
            tests += 1;
        }
    }
    assert!(tests > 40, "{tests}");
}

#[test]
fn every_complaint_has_its_row() {
    for number in 1..=36 {
        let row = format!("//! | {number} | ");
        assert!(TABLES.contains(&row), "complaint {number}");
    }
}
