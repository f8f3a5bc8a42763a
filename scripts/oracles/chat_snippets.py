"""Small templates for chat_templates.py, one feature each."""

VARIABLES = {
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo", "items": 3, "tool_calls": [{"id": 1}]}],
    "name": "Straße",
    "text": "  Hello wOrld-foo (bar) \n",
    "lines": "a\nb\n\nc",
    "numbers": [3, 1, 2],
    "mixed": {"b": [1, 2.5, None, True], "a": {"x": "y'z", "u": "\u00e9\u2028\u0007"}, "B": "<&>"},
    "people": [{"n": "Bo", "age": 3}, {"n": "al", "age": 1}, {"n": "Cy"}],
    "big": 1e22,
    "small": 0.00001,
}

SNIPPETS = r"""
{{ name }}|{{ name | upper }}|{{ name.lower() }}|{{ name | length }}|{{ name[4] }}|{{ name[-2:] }}|{{ name[::-1] }}
{{ text | trim }}|{{ text.strip() | title }}|{{ text.strip().title() }}|{{ text | capitalize }}|{{ text.strip(' \nHr)') }}
{{ text.lstrip() }}|{{ text.rstrip('\n ') }}|{{ text | trim(' ') }}
{{ lines.split('\n') }}|{{ lines.split() }}|{{ lines.split('\n', 1) }}|{{ lines.rsplit('\n', 1) }}|{{ lines.splitlines() }}
{{ ' a  b c '.split(None, 1) }}|{{ ' a  b c '.rsplit(maxsplit=1) }}|{{ 'a,b,,c'.split(',')[-1] }}|{{ ''.split(',') }}|{{ ''.split() }}
{{ 'abc'.startswith('ab') }}|{{ 'abc'.endswith(('x', 'bc')) }}|{{ 'abc'.find('c') }}|{{ 'abc'.find('z') }}|{{ 'ää'.find('ä', 1) }}|{{ 'aXbX'.rfind('X') }}
{{ 'a-b'.replace('-', '+') }}|{{ 'aaa'.replace('a', 'b', 2) }}|{{ 'ab'.replace('', '.') }}|{{ 'aaa' | replace('a', 'c', 1) }}|{{ 'a1b' | replace(1, 2) }}
{{ 'banana'.count('an') }}|{{ 'x'.join(['a', 'b']) }}|{{ ', '.join(numbers | map('string')) }}|{{ numbers | join('-') }}|{{ people | join(',', attribute='n') }}
{{ 'a'.isdigit() }}{{ '12'.isdigit() }}{{ 'ab1'.isalnum() }}{{ 'Ab'.isupper() }}{{ 'ab'.islower() }}{{ ' '.isspace() }}{{ ''.isalpha() }}
{{ 'ab'.center(5) }}|{{ 'ab'.ljust(4, '.') }}|{{ 'ab'.rjust(4) }}|{{ '-7'.zfill(4) }}|{{ 'a.b.c'.partition('.') }}|{{ 'a.b.c'.rpartition('.') }}
{{ 'prefix-x'.removeprefix('prefix-') }}|{{ 'x.py'.removesuffix('.py') }}|{{ 'aBc'.swapcase() }}|{{ 'ab' 'cd' }}
{{ '{} {}'.format('a', 1) }}|{{ '{0}{1}{0}'.format('x', 'y') }}|{{ '{n:>5}|{n:<5}|{n:^5}|{n:05d}'.format(n=42) }}|{{ '{:.2f}'.format(3.14159) }}|{{ '{{}}'.format() }}
{{ '{:,}'.format(1234567) }}|{{ '{!r}'.format('a') }}|{{ '{0[a]} {0.b}'.format({'a': 1}) }}
{{ '{a.x}'.format(a='b') }}
{{ '%s and %d and %.1f' % ('a', 2, 3.25) }}|{{ '%5s|%-5s|%05d' | format('a', 'b', 7) }}|{{ '%(k)s' % {'k': 'v'} }}|{{ '%s' % 'x' }}|{{ '100%%' % () }}
{{ '%s %s' % 'x' }}
{{ '%x %X %o %e %g' % (255, 255, 8, 12345.678, 0.0001) }}|{{ '%r' % ('a',) }}|{{ '%+d' % 3 }}
{{ 1 + 2 * 3 ** 2 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ -7 % 3 }}|{{ 7 / 2 }}|{{ 4 / 2 }}|{{ 2 ** -1 }}|{{ 7.5 // 2 }}|{{ -7.5 % 2 }}|{{ 2 ** 3 ** 2 }}
{{ 1.0 }}|{{ 1e3 }}|{{ 1.5e-7 }}|{{ big }}|{{ small }}|{{ 0.1 + 0.2 }}|{{ 123456789012345.0 * 10 }}|{{ 1e16 }}|{{ 100000.0 }}|{{ 0x1F }}|{{ 0b101 }}|{{ 1_000 }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ 'a' + 1 }}
{{ 'a' ~ 1 ~ none ~ true ~ [1] }}|{{ 'ab' * 2 }}|{{ [1] * 2 + [3] }}|{{ (1,) + (2,) }}|{{ true + 1 }}
{{ -1 | abs }}|{{ - 3.5 | abs }}|{{ +3 }}|{{ not true }}|{{ not 0 and 1 }}
{{ 1 < 2 < 3 }}|{{ 1 < 2 > 3 }}|{{ 'a' < 'b' }}|{{ 1 == 1.0 }}|{{ '1' == 1 }}|{{ [1, 2] == [1, 2] }}|{{ (1,) == [1] }}|{{ {'a': 1} == {'a': 1.0} }}|{{ none == false }}
{{ 1 < 'a' }}
{{ 2 in numbers }}|{{ 5 not in numbers }}|{{ 'ell' in text }}|{{ 'b' in mixed }}|{{ 'x' in ('x', 'y') }}|{{ 'z' in undefined_thing }}
{{ 1 in 'a1' }}
{{ 1 in 5 }}
{{ none or 'x' }}|{{ '' and 'y' }}|{{ 0 or [] or 'z' }}|{{ 'a' if false }}|{{ 'a' if 1 else 'b' }}|{{ 'a' if 0 else 'b' if 0 else 'c' }}
{{ missing }}|{{ missing | default('d') }}|{{ '' | default('e', true) }}|{{ missing is defined }}|{{ mixed.nope is defined }}|{{ none | d('x') }}|{{ missing | length }}|{{ missing == other_missing }}
{{ missing.attribute }}
{{ missing + 'x' }}
{{ missing() }}
{{ missing ~ 'x' }}{% if missing %}a{% endif %}{% for x in missing %}b{% else %}none{% endfor %}
{{ mixed.nope.deeper is defined }}
{{ messages[7] is defined }}|{{ messages[7] }}|{{ messages[-1].role }}|{{ messages[0]['content'] }}
{{ messages[7].role }}
{{ messages[1]['items'] }}|{{ messages[0].get('role') }}|{{ messages[0].get('x') }}|{{ messages[0].get('x', 'dflt') }}|{{ messages[0].keys() | list }}|{{ messages[0].values() | list }}
{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0].items() | list }}{{ messages[0] | items | list }}
{{ messages[0].items() }}{{ messages[0].keys() }}{{ messages[0].values() }}
{{ messages.append(1) }}
{{ messages[0].update({}) }}
{{ messages[0].pop }}|{{ messages.append is defined }}|{{ name.__class__ }}
{{ name.__class__.__name__ }}
{{ mixed }}|{{ mixed | string }}|{{ [] }}{{ {} }}{{ () }}{{ (1,) }}{{ (1, 'a') }}|{{ ["it's", 'say "x"', 'both \' "'] }}|{{ ['\n\t\\'] }}|{{ [missing] }}
{{ mixed | tojson }}|{{ 'ä"\n' | tojson }}|{{ mixed | tojson(ensure_ascii=true) }}|{{ [] | tojson }}|{{ {} | tojson(indent=2) }}|{{ none | tojson }}{{ 1.0 | tojson }}{{ true | tojson }}
{{ mixed | tojson(indent=2) }}|{{ numbers | tojson(indent=4) }}|{{ mixed | tojson(sort_keys=true) }}|{{ mixed | tojson(separators=(',', ':')) }}|{{ {'a': []} | tojson(indent='\t') }}|{{ numbers | tojson(indent=0) }}
{{ {1: 'a', none: 'b', true: 'c', 1.5: 'd'} | tojson }}|{{ (1, 2) | tojson }}|{{ '</script>&\'' | tojson }}|{{ '😀\x7f' | tojson(true) }}
{{ missing | tojson }}
{{ range(3) | tojson }}
{{ numbers | sort }}|{{ numbers | sort(reverse=true) }}|{{ ['b', 'A', 'c'] | sort }}|{{ ['b', 'A', 'c'] | sort(case_sensitive=true) }}|{{ people[:2] | sort(attribute='age') | map(attribute='n') | list }}
{{ people | sort(attribute='age') }}
{{ [1, 'a'] | sort }}
{{ numbers | first }}{{ numbers | last }}{{ [] | first }}{{ 'abc' | first }}{{ 'abc' | last }}|{{ numbers | reverse | list }}|{{ 'abc' | reverse }}|{{ numbers | sum }}|{{ numbers | max }}{{ numbers | min }}|{{ [] | max }}
{{ people | map(attribute='n') | list }}|{{ people | map(attribute='age', default=0) | list }}|{{ people | map(attribute='age') | list }}|{{ ['a', 'b'] | map('upper') | join }}|{{ people | sum(attribute='x.y', start=2) if false }}
{{ people | selectattr('age') | map(attribute='n') | list }}|{{ people | selectattr('age', 'defined') | list | length }}|{{ people | rejectattr('age', 'equalto', 3) | list | length }}|{{ messages | selectattr('role', 'equalto', 'user') | list }}|{{ people | selectattr('n', 'in', ['Bo', 'Cy']) | map(attribute='n') | list }}
{{ numbers | select('odd') | list }}|{{ numbers | reject('greaterthan', 1) | list }}|{{ [0, 1, ''] | select | list }}|{{ numbers | select('>', 1) | list }}
{% if messages | selectattr('role', 'equalto', 'nobody') %}generators are true{% endif %}{{ (numbers | select('odd')) is iterable }}
{% set g = numbers | map('string') %}{{ g | list }}{{ g | list }}
{{ numbers | map('string') | length }}
{{ numbers | map('string') | first }}{{ ['a', 'A', 'b'] | unique | list }}{{ [1, 1.0, true, 2] | unique | list }}
{{ mixed | dictsort }}|{{ {'b': 1, 'a': 2} | dictsort(by='value') }}|{{ {'b': 1, 'A': 2} | dictsort(true) }}|{{ {'b': 1, 'a': 2} | dictsort(reverse=true) }}
{{ numbers | batch(2) | list }}|{{ numbers | batch(2, 'x') | list }}|{{ numbers | slice(2) | list }}|{% for key, group in people[:2] | groupby('age') %}{{ key }}:{{ group }}{% endfor %}
{{ lines | indent }}|{{ lines | indent(2, true) }}|{{ lines | indent(2, blank=true) }}|{{ lines | indent('> ', first=true) }}|{{ '' | indent }}
{{ '12' | int }}{{ 'x' | int }}{{ 'x' | int(7) }}{{ 3.9 | int }}{{ '3.7' | int }}{{ 'ff' | int(base=16) }}|{{ '1.5' | float }}|{{ 'x' | float }}|{{ 2 | float }}|{{ none | int }}|{{ ' 12 ' | int }}{{ '1_0' | int }}
{{ 2.5 | round }}|{{ 3.5 | round }}|{{ 2.675 | round(2) }}|{{ 2.1 | round(method='ceil') }}|{{ 2.9 | round(0, 'floor') }}|{{ 7 | round }}|{{ 1234.5 | round(-2) }}|{{ 0.15 | round(1) }}
{{ '<a>' | e }}|{{ '<a>' | safe }}|{{ ('<a>' | safe) + '<' }}|{{ '<' + ('>' | e) }}|{{ ('<' | e) ~ '<' }}|{{ ('<' | e) | e }}|{{ '"\'&' | escape }}
{{ 'a b c d e f' | truncate(7) }}|{{ 'a b c d e f g' | truncate(5, true) }}|{{ 'some words here' | wordcount }}|{{ 'a b/ü' | urlencode }}|{{ 'ab' | center(6) }}|{{ 5 | string + 'x' }}
{{ 'x' | nosuchfilter }}
{{ 1 is nosuchtest }}
{{ 1 is odd }}{{ 2 is even }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}{{ none is none }}{{ 1 is number }}{{ true is number }}{{ true is boolean }}{{ 1 is integer }}{{ true is integer }}{{ 1.0 is float }}
{{ 'a' is string }}{{ {} is mapping }}{{ [] is sequence }}{{ 'a' is sequence }}{{ {} is sequence }}{{ 1 is iterable }}{{ 'a' is iterable }}{{ missing is iterable }}{{ range(2) is sequence }}{{ none is sequence }}{{ missing is sequence }}{{ missing is callable }}
{{ 'a' is eq 'a' }}{{ 1 is sameas 1 }}{{ true is true }}{{ 1 is true }}{{ false is false }}{{ 'a' is lower }}{{ 'A' is upper }}{{ 1 is in [1] }}{{ 'a' is not none }}{{ 1 is not in [1] }}{{ 2 is gt 1 }}{{ 2 is ne 2 }}{{ 'upper' is filter }}{{ 'odd' is test }}
{{ 'a' is string and 1 is number or false }}|{{ 'yes' if name is defined and name is string else 'no' }}|{{ (1 is odd) is boolean }}
{% for i in range(3) %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }};{% endfor %}
{% for m in numbers %}{{ loop.previtem }}<{{ m }}>{{ loop.nextitem }}{% if not loop.last %},{% endif %}{% endfor %}|{% for m in numbers %}{{ loop.previtem is defined }}{{ loop.nextitem is undefined }}{% endfor %}
{% for x in numbers if x > 1 %}{{ loop.index }}:{{ x }} {% else %}none{% endfor %}{% for x in [] %}a{% else %}empty{% endfor %}{% for x in numbers if x > 9 %}{% else %}nothing{% endfor %}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x > 4 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ c }}{% endfor %}{% for c in 'äb' %}[{{ c }}]{% endfor %}{% for k in mixed %}{{ k }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% for i in range(3) %}{% for j in range(2) %}{{ loop.index }}{% endfor %}{{ loop.index }}{{ loop.cycle('a', 'b') }}{{ loop.changed(i // 2) }}{% endfor %}{{ loop is defined }}
{% for i in 1, 2, 3 %}{{ i }}{% endfor %}{{ range(2, 10, 3) | list }}{{ range(5, 0, -2) | list }}{{ range(3) }}{{ range(1, 4)[1] }}{{ range(3) | length }}
{{ range(1000000) | length }}
{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}
{% set ns = namespace(found=false, n=0) %}{% for i in numbers %}{% set ns.n = ns.n + i %}{% set ns.found = true %}{% endfor %}{{ ns.n }}{{ ns.found }}{{ ns.missing is defined }}{{ ns['n'] }}{{ ns }}
{% set a, b = 1, 2 %}{{ a + b }}{% set t = 1, 2 %}{{ t }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}
{% set x = {} %}{% set x.y = 1 %}
{% set block %}a {{ 1 + 1 }} b{% endset %}[{{ block }}]{% set up | upper | trim %} shout {% endset %}[{{ up }}]
{% macro m(a, b='x', c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, 2) }}|{{ m(1, c=3) }}|{{ m(b=1, a=2) }}|{{ m() }}|{{ m is callable }}|{{ m.name }}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(z=2) }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, z=3) }}{{ m(*[1, 2], **{'k': 'v'}) }}
{% macro wrap(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call wrap('b') %}in{% endcall %}{% macro each(xs) %}{% for x in xs %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(x) each([1, 2]) %}[{{ x }}]{% endcall %}
{% macro fact(n) %}{{ n if n < 2 else n * (fact(n - 1) | int) }}{% endmacro %}{{ fact(6) }}{% set late %}{{ y }}{% endset %}{% set y = 2 %}[{{ late }}]
{% macro show() %}{{ z }}{% endmacro %}{% set z = 5 %}{{ show() }}{% for z in [7] %}{{ show() }}{% endfor %}
{% filter upper | replace('A', 'o') %}banana{% endfilter %}|{% with a=1, b=2 %}{{ a + b }}{% endwith %}{{ a is defined }}|{% generation %}gen{% set q = 1 %}{% endgeneration %}{{ q is defined }}
{% raw %}{{ not }} {% if %}{% endraw %}|{# a {{ comment }} #}|{%- raw -%}  x  {%- endraw -%}  |
{{ "a\tb\\n\x41\u00e9\N" }}
{{ 'a\tb\\n\x41\u00e9\'\"\q\101' }}|{{ "it's" }}|{{ '\u' ~ 1 }}
{{ dict(a=1, b=2) }}{{ dict([('x', 1)], y=2) }}{{ {'a': 1, 'a': 2} }}{{ {'k': numbers, 1: none}[1] }}{{ dict({'a': 1}, a=3).a }}
{{ numbers[1:] }}{{ numbers[:-1] }}{{ numbers[::2] }}{{ numbers[::-1] }}{{ numbers[5:] }}{{ numbers[-100:2] }}{{ (1, 2, 3)[1:] }}{{ 'abc'[1:2] }}{{ numbers[2:0:-1] }}
{{ numbers[::0] }}
{{ numbers['a'] is defined }}{{ numbers.0 }}{{ numbers[true] }}{{ numbers.index(2) }}{{ numbers.count(3) }}{{ 'abc'['x'] is defined }}
{{ {[1]: 2} }}
{{ raise_exception('my message') }}
{{ strftime_now('%Y-%m-%d') }}|{{ strftime_now('%d %b %Y %H:%M:%S %A %j %B %-d %%') }}|{{ strftime_now('') }}|{{ strftime_now('%f') }}
{{ messages | tojson | safe }}|{{ numbers | length > 2 and messages[0]['role'] == 'user' }}|{{ (messages | length) - 1 }}|{{ messages | length - 1 }}
{{- name -}}   x   {{- name }}  {%- if true %}  y  {%- endif -%}   z
{% if false %}a{% elif 0 %}b{% elif 1 %}c{% else %}d{% endif %}{% if not missing and (1 or 2) %}ok{% endif %}
{% if 1 %}
{% endif %}
{% endfor %}
{% nosuchtag %}
{{ 1 + }}
{{ (1 }}
{{ 'open }}
{% for in x %}{% endfor %}
{{ a b }}
{% set 1 = 2 %}
{% set true = 2 %}
{{ 1 | }}
{{ {'a' 1} }}
{# open
{% raw %} open
{{ 1 is odd is boolean }}
{% break %}
{% macro f(a=1, b) %}{% endmacro %}
{{ f(a=1, 2) }}
{{ '%d' % 'x' }}
{{ none.x }}|{{ none.x is defined }}
{{ none.x.y }}
{{ 'x' | join(',') }}|{{ 'abc' | list }}|{{ mixed | list }}|{{ mixed | length }}|{{ 5 | list if false }}
{{ 5 | list }}
{{ 5 | length }}
{{ none | trim }}|{{ 5 | upper }}|{{ none | string }}|{{ [1] | lower }}|{{ true | capitalize }}
{{ 'a' > 'B' }}|{{ 'ß' | upper }}|{{ 'éa' | capitalize }}|{{ 'ÀB' | lower }}|{{ 'ǆ'.title() }}
{{ messages[0].content.split('</think>')[-1].lstrip('\n') }}|{{ 'x</think>y'.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}
{% set d = {'a': {'b': [1, {'c': 'deep'}]}} %}{{ d.a.b[1].c }}{{ d['a']['b'][0] }}{{ d.a.b[-1]['c'][0] | upper }}
{%- set tool_list = [] -%}{%- for t in [1, 2] -%}{%- set tool_list = tool_list + [t] -%}{%- endfor -%}{{ tool_list }}
{{ true }}{{ false }}{{ none }}{{ True }}{{ None }}{{ 1 if true }}{{ [true, none, 1.0, 'x'] }}
{{ 1, 2 }}{{ 1, }}{{ [1, 2,] }}{{ {'a': 1,} }}
{{ 9223372036854775807 }}{{ -9223372036854775807 }}
{{ messages[0]|attr('role') }}|{{ ns|attr('x') if false }}|{{ 'abc'|attr('upper') is callable }}
{{ ['x', 'y'][loop_index | default(0)] }}{{ ('a', 'b')[1] }}{{ 'a' in ['a'] and not 'b' in ['a'] }}{{ not 'x' in 'y' }}
{{ [3, 1] | sort | first ~ 'x' }}|{{ 1 ~ 2 + 3 }}
{{ 2 * 'ab' ~ 'c' }}|{{ -2 ** 2 }}|{{ (-2) ** 2 }}|{{ 10 - 2 - 3 }}|{{ 100 // 7 % 4 }}|{{ 1 - -1 }}
{{ (messages | selectattr('role', 'ne', 'user') | list)[0].tool_calls[0].id }}|{{ messages | map(attribute='role') | unique | join('/') }}|{{ messages[1].tool_calls is iterable and messages[1].tool_calls is not string }}
""".strip("\n").split("\n")

SNIPPETS += [
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n",
    "a\n  {%+ if true %}\n  b\n  {%- endif +%}\nc\n\n",
    "  {# c #}\nx {# d #} \n  {{ 1 }}\n  y",
    "{% for i in [1, 2] %}\n  {{ i }}\n{% endfor %}\n\nend\n",
    "a \n {%- if true -%} \n b \n {%- endif -%} \n c",
    "\r\na\r\n{% if 1 %}\r\nb{% endif %}\r",
    "x{% set a = 1 %}\n\ny{{ a }}\n\n",
    "\t{% set a = 'x\ny' %}\n{{ a }}",
    "{{ '{{' }}{{ '}}' }}{{ {'a': {'b': 1}}['a']['b'] }}{{ {'a': {}}}}",
    "{ {{ 1 }} } {% raw %}\n x\n{% endraw %}\n y { % } #}",
    "a{#- x -#} b {{- 1 -}}\u00a0\u3000c",
    "{% if true %}a{% endif %}\n{% if true %}b{% endif %}\n",
    "{%- for m in messages %}{{ m.role }}{% if loop.last and add_generation_prompt %}!{% endif %}{%- endfor %}\n",
    "{%if true%}x{%endif%}{{name}}{{-name-}} {{+ 1 }}",
    "{% if true %}a",
    "{{",
    "{%",
    "{% if",
    "",
    "{% for i in range(3) %}\n{%- if i %}, {% endif %}{{ i }}\n{%- endfor %}.",
    "  {%- macro a() %}\n  x\n  {% endmacro %}\n[{{ a() }}]",
    "  {% raw %}  a  {% endraw %}  \n  b",
]
