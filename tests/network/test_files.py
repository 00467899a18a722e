"""Files written whole or not at all, whoever else writes and whatever they are called."""

import threading

from airnet_basicsr.network.files import write_whole


def test_several_writers_of_one_file_leave_what_one_of_them_wrote(tmp_path):
    contents = [bytes([number]) * 10**6 for number in range(4)]

    def write(content):
        for _ in range(20):
            write_whole(tmp_path / 'x.png', content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if (tmp_path / 'x.png').exists():
            assert (tmp_path / 'x.png').read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ['x.png']


def test_a_name_as_long_as_names_can_be(tmp_path):
    path = tmp_path / ('x' * 251 + '.png')
    write_whole(path, 'caf\udce9')
    assert path.read_text() == 'caf\\udce9'
