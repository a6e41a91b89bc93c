#!/usr/bin/env python3
"""An independent peer of our callbacks: wechatpy signs and encrypts, a running service answers,
wechatpy verifies and decrypts.

    python3 -m venv /tmp/huida-peer && /tmp/huida-peer/bin/pip install wechatpy==1.8.18 pycryptodome
    huida serve --config huida.toml &
    /tmp/huida-peer/bin/python eval/side_by_side/wechatpy_peer.py --config huida.toml

Takes every wechat-mp and wecom account of the configuration that has an encoding_aes_key. Fails when
a message is refused, an answer cannot be decrypted or says nothing, or something forged is taken.
"""

import argparse
import json
import sys
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import xmltodict
from wechatpy.crypto import PrpCrypto, WeChatCrypto, _get_signature
from wechatpy.enterprise.crypto import PrpCrypto as CorpPrpCrypto
from wechatpy.enterprise.crypto import WeChatCrypto as CorpCrypto

CUSTOMER = "peer-%d-%d"
# Lengths on both sides of the padding's 32, and characters of one to four bytes.
TEXTS = ["人工"] + ["转人工" + "a" * n for n in range(40)] + ["é人工😀" * n for n in range(1, 8)]


class Account:
    """One account of the configuration, and the address of its callback."""

    def __init__(self, service, name, table):
        self.name, self.platform = name, table["platform"]
        corp = self.platform == "wecom"
        self.receiver = table["corp_id" if corp else "app_id"]
        self.token, self.key = table["token"], table["encoding_aes_key"]
        self.agent = table.get("agent_id", "")
        self.corp = corp
        self.crypto = (CorpCrypto if corp else WeChatCrypto)(self.token, self.key, self.receiver)
        self.cipher = (CorpPrpCrypto if corp else PrpCrypto)(self.crypto.key)
        self.url = f"{service}/channels/{self.platform}/{name}"

    def query(self, encrypted, token=None):
        timestamp, nonce = str(int(time.time())), "nonce%d" % time.monotonic_ns()
        token = token or self.token
        query = {
            "msg_signature": _get_signature(token, timestamp, nonce, encrypted),
            "timestamp": timestamp,
            "nonce": nonce,
        }
        if not self.corp:
            query |= {"signature": _get_signature(token, timestamp, nonce, ""), "encrypt_type": "aes"}
        return query

    def message(self, number, text):
        agent = f"<AgentID>{self.agent}</AgentID>" if self.corp else ""
        return (
            f"<xml><ToUserName><![CDATA[{self.us()}]]></ToUserName>"
            f"<FromUserName><![CDATA[{CUSTOMER % (number, RUN)}]]></FromUserName>"
            f"<CreateTime>{int(time.time())}</CreateTime><MsgType><![CDATA[text]]></MsgType>"
            f"<Content><![CDATA[{text}]]></Content><MsgId>{RUN * 1000 + number}</MsgId>{agent}</xml>"
        )

    def us(self):
        return self.receiver if self.corp else "gh_peer"

    def post(self, query, encrypted):
        body = (
            f"<xml><ToUserName><![CDATA[{self.us()}]]></ToUserName>"
            f"<AgentID><![CDATA[{self.agent}]]></AgentID>"
            f"<Encrypt><![CDATA[{encrypted}]]></Encrypt></xml>"
        )
        url = f"{self.url}?{urllib.parse.urlencode(query)}"
        return call(urllib.request.Request(url, body.encode(), {"Content-Type": "text/xml"}))


RUN = int(time.time())


def call(request):
    """Status and body; a refusal is no exception here."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def address_check(account):
    echo = "4375120948345356249"
    sent = account.cipher.encrypt(echo, account.receiver).decode() if account.corp else echo
    query = account.query(sent if account.corp else "") | {"echostr": sent}
    answer = call(urllib.request.Request(f"{account.url}?{urllib.parse.urlencode(query)}"))
    assert answer == (200, echo.encode()), f"address check: {answer}"


def encrypted(account, number, text, receiver=None):
    sealed = account.cipher.encrypt(account.message(number, text), receiver or account.receiver)
    return sealed.decode() if isinstance(sealed, bytes) else sealed


def round_trip(account, number, text):
    """Length of what the customer is told."""
    sealed = encrypted(account, number, text)
    status, body = account.post(account.query(sealed), sealed)
    assert status == 200, f"message {number}: {status} {body[:80]!r}"
    if body in (b"", b"success"):
        return 0
    outer = xmltodict.parse(body)["xml"]
    stamp, nonce, signature = outer["TimeStamp"], outer["Nonce"], outer["MsgSignature"]
    opened = account.crypto.decrypt_message(body, signature, stamp, nonce)
    reply = xmltodict.parse(opened)["xml"]
    assert reply["ToUserName"] == CUSTOMER % (number, RUN), reply
    assert reply["FromUserName"] == account.us() and reply["MsgType"] == "text", reply
    return len(reply["Content"])


def forgeries(account):
    """Each with what is wrong about it; all must be refused."""
    good, other = encrypted(account, 900, "forged"), encrypted(account, 901, "forged", "someone-else")
    yield "another token", account.query(good, "another-token"), good
    yield "another receiver", account.query(other), other
    yield "a signature of another text", account.query(good), encrypted(account, 902, "forged")
    yield "no signature", {}, good
    yield "a cut text", account.query(good[:-24]), good[:-24]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8788")
    args = parser.parse_args()
    tables = tomllib.loads(args.config.read_text()).get("accounts", {})
    accounts = [
        Account(args.url, name, table)
        for name, table in tables.items()
        if table["platform"] in ("wechat-mp", "wecom") and "encoding_aes_key" in table
    ]
    if not accounts:
        sys.exit(f"{args.config} has no wechat-mp or wecom account with an encoding_aes_key")
    report = {}
    for account in accounts:
        address_check(account)
        told = [round_trip(account, number, text) for number, text in enumerate(TEXTS)]
        refused = 0
        for what, query, sealed in forgeries(account):
            status, _ = account.post(query, sealed)
            assert 400 <= status < 500, f"{what} was answered with {status}"
            refused += 1
        decrypted = sum(1 for length in told if length)
        assert decrypted or account.corp, "no answer was said in the callback"
        report[account.name] = {
            "platform": account.platform, "sent": len(told), "answers_decrypted": decrypted,
            "forged_refused": refused,
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
